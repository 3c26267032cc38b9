/* About a second of work for a processor: rounds as SHA-256 has them, a product of matrices, and
 * a sieve. */
#pragma once

#include <stdint.h>
#include <stdlib.h>
#include <string.h>

static uint32_t rotate(uint32_t x, int by) {
    return x >> by | x << (32 - by);
}

static uint32_t hash(uint32_t blocks) {
    uint32_t state[8] = {0x6a09e667, 0xbb67ae85, 0x3c6ef372, 0xa54ff53a,
                         0x510e527f, 0x9b05688c, 0x1f83d9ab, 0x5be0cd19};
    for (uint32_t block = 0; block < blocks; block++) {
        uint32_t w[64], s[8];
        for (int i = 0; i < 16; i++)
            w[i] = block * 16 + (uint32_t)i;
        for (int i = 16; i < 64; i++)
            w[i] = w[i - 16] + w[i - 7] +
                   (rotate(w[i - 15], 7) ^ rotate(w[i - 15], 18) ^ w[i - 15] >> 3) +
                   (rotate(w[i - 2], 17) ^ rotate(w[i - 2], 19) ^ w[i - 2] >> 10);
        memcpy(s, state, sizeof s);
        for (int i = 0; i < 64; i++) {
            uint32_t first = s[7] + w[i] + (uint32_t)i * 0x9e3779b9 +
                             (rotate(s[4], 6) ^ rotate(s[4], 11) ^ rotate(s[4], 25)) +
                             ((s[4] & s[5]) ^ (~s[4] & s[6]));
            uint32_t second = (rotate(s[0], 2) ^ rotate(s[0], 13) ^ rotate(s[0], 22)) +
                              ((s[0] & s[1]) ^ (s[0] & s[2]) ^ (s[1] & s[2]));
            memmove(s + 1, s, 7 * sizeof *s);
            s[4] += first;
            s[0] = first + second;
        }
        for (int i = 0; i < 8; i++)
            state[i] += s[i];
    }
    return state[0];
}

enum { SIZE = 800 };
static double a[SIZE][SIZE], b[SIZE][SIZE], product[SIZE][SIZE];

static uint32_t multiply(void) {
    for (int i = 0; i < SIZE; i++)
        for (int j = 0; j < SIZE; j++) {
            a[i][j] = (i * 7 + j) % 13;
            b[i][j] = (i + j * 5) % 11;
        }
    for (int i = 0; i < SIZE; i++)
        for (int k = 0; k < SIZE; k++)
            for (int j = 0; j < SIZE; j++)
                product[i][j] += a[i][k] * b[k][j];
    double sum = 0;
    for (int i = 0; i < SIZE; i++)
        for (int j = 0; j < SIZE; j++)
            sum += product[i][j] * ((i + j) % 3);
    return (uint32_t)(uint64_t)sum;
}

static uint32_t sieve(uint32_t limit) {
    uint8_t *composite = calloc(limit, 1);
    if (composite == NULL)
        abort();
    uint32_t sum = 0;
    for (uint32_t i = 2; i < limit; i++) {
        if (composite[i])
            continue;
        sum += i;
        for (uint64_t j = (uint64_t)i * i; j < limit; j += i)
            composite[j] = 1;
    }
    free(composite);
    return sum;
}

/* A checksum of each of the three. */
static void compute(uint32_t checksums[3]) {
    checksums[0] = hash(400000);
    checksums[1] = multiply();
    checksums[2] = sieve(25000000);
}
