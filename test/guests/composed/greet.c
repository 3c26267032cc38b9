#include "command.h"

bool exports_wasi_cli_run_run(void) {
    guest_list_string_t arguments;
    wasi_cli_environment_get_arguments(&arguments);
    guest_string_t name = arguments.len > 1 ? arguments.ptr[1] : text("nobody"), greeting;
    lighter_composed_greeting_greet(&name, &greeting);
    OUT(greeting, text("\n"));
    guest_string_free(&greeting);
    return true;
}
