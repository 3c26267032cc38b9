#include "http-client.h"

bool exports_wasi_cli_run_run(void) {
    guest_list_string_t arguments;
    wasi_cli_environment_get_arguments(&arguments);
    if (arguments.len != 2) {
        ERR(text("usage: fetch URL\n"));
        return false;
    }
    wasi_http_types_own_incoming_response_t response;
    const char *error = get(arguments.ptr[1], &response);
    if (error == NULL) {
        wasi_http_types_borrow_incoming_response_t borrow =
            wasi_http_types_borrow_incoming_response(response);
        char buffer[20];
        OUT(digits(wasi_http_types_method_incoming_response_status(borrow), buffer), text("\n"));
        wasi_http_types_own_incoming_body_t body;
        if (!wasi_http_types_method_incoming_response_consume(borrow, &body))
            abort();
        wasi_io_streams_own_output_stream_t out = wasi_cli_stdout_get_stdout();
        error = copy_body(body, wasi_io_streams_borrow_output_stream(out));
        wasi_io_streams_output_stream_drop_own(out);
        wasi_http_types_incoming_response_drop_own(response);
    }
    if (error != NULL)
        ERR(text(error), text("\n"));
    return error == NULL;
}
