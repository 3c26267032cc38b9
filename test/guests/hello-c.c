/* The C counterpart of hello: another libc start-up, the same output. */
#include <stdio.h>

int main(void) {
    puts("Hello from Wasm");
    return 0;
}
