/* The signal dispositions and mask that this process was started with. */
#include "status.h"

int main(void) {
    return print_status((const char *const[]){"SigBlk", "SigIgn", "SigCgt", NULL});
}
