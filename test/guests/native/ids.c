/* The credentials and the confinement that this process was started with. */
#include <unistd.h>

#include "status.h"

int main(void) {
    printf("uid: %d euid: %d gid: %d egid: %d\n", getuid(), geteuid(), getgid(), getegid());
    return print_status((const char *const[]){"Groups", "CapInh", "CapPrm", "CapEff", "CapBnd",
                                              "CapAmb", "NoNewPrivs", "Seccomp", NULL});
}
