/* A static program that looks a user up, as the C library of a static shim would: shows that
 * libnss_evil is loaded by whoever does not guard against it. */
#include <pwd.h>
#include <stdio.h>

int main(void) {
    printf("%s\n", getpwnam("nobody-of-this-name") ? "found" : "not found");
    return 0;
}
