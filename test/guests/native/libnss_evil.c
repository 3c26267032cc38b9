/* A name service that an image could bring. Loading it is enough: its constructor leaves a
 * file behind. It calls the kernel directly, so that it needs no libc of the image. */
static long system_call(long number, long a, long b, long c, long d) {
    long result;
    register long fourth __asm__("r10") = d;
    __asm__ volatile("syscall"
                     : "=a"(result)
                     : "a"(number), "D"(a), "S"(b), "d"(c), "r"(fourth)
                     : "rcx", "r11", "memory");
    return result;
}

__attribute__((constructor)) static void loaded(void) {
    /* openat(AT_FDCWD, ..., O_CREAT | O_WRONLY, 0644) */
    system_call(257, -100, (long)"/nss-was-loaded", 0101, 0644);
}
