// For who looks for a fault. It is compiled with DWARF.
//
//   fault trap TEXT [MIB]   has TEXT in its memory, the environment variable SECRET, and so many MiB; traps in `faulty`
//   fault busy SECONDS      computes in `busy_function`, called by `caller`
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

static volatile char kept[2][256];
static volatile int zero;

__attribute__((noinline)) static void keep(volatile char *place, const char *text) {
    for (size_t i = 0; text != NULL && text[i] != '\0' && i < 255; i++)
        place[i] = text[i];
}

__attribute__((noinline)) static void faulty(int number) {
    printf("no fault: %d\n", number / zero); // the line that traps
}

__attribute__((noinline)) static unsigned busy_function(unsigned seed) {
    for (unsigned i = 0; i < 10000000; i++)
        seed = seed * 1664525 + (seed >> 13) + i;
    return seed;
}

__attribute__((noinline)) static void caller(int seconds) {
    unsigned seed = 1;
    for (time_t end = time(NULL) + seconds; time(NULL) < end;)
        seed = busy_function(seed);
    printf("done %u\n", seed);
}

int main(int argc, char **argv) {
    if (argc >= 3 && strcmp(argv[1], "trap") == 0) {
        size_t length = argc > 3 ? (size_t)atoi(argv[3]) << 20 : 0;
        volatile char *more = malloc(length);
        for (size_t i = 0; more != NULL && i < length; i++)
            more[i] = 1;
        keep(kept[0], argv[2]);
        keep(kept[1], getenv("SECRET"));
        puts("ready");
        fflush(stdout);
        faulty(argc);
    } else if (argc == 3 && strcmp(argv[1], "busy") == 0) {
        puts("ready");
        fflush(stdout);
        caller(atoi(argv[2]));
    }
    return 0;
}
