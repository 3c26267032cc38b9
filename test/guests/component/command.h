/* What the commands in C share. */
#pragma once

#include "common.h"

/* Ends the program with status 1 and a line on stderr. */
_Noreturn MAYBE_UNUSED static void die(guest_string_t what, guest_string_t why) {
    ERR(what, text(": "), why, text("\n"));
    wasi_cli_exit_result_void_void_t failure = {.is_err = true};
    wasi_cli_exit_exit(&failure);
    abort();
}
