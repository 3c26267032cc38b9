/* Computes and prints the checksums. */
#include "compute.h"

#include <stdio.h>

int main(void) {
    uint32_t checksums[3];
    compute(checksums);
    printf("%08x %08x %08x\n", checksums[0], checksums[1], checksums[2]);
    return 0;
}
