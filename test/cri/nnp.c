// Says which user it runs as: a file with the set-user-id bit shows whether that is honoured.
#include <stdio.h>
#include <unistd.h>

int main(void) {
    printf("Effective uid: %d\n", (int)geteuid());
    return 0;
}
