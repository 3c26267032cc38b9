#include "../compute.h"
#include "common.h"

/* Sends a whole response. */
static void reply(wasi_http_types_own_response_outparam_t out, uint16_t status,
                  guest_string_t message) {
    wasi_http_types_own_outgoing_response_t head =
        wasi_http_types_constructor_outgoing_response(wasi_http_types_constructor_fields());
    wasi_http_types_borrow_outgoing_response_t borrow =
        wasi_http_types_borrow_outgoing_response(head);
    wasi_http_types_own_outgoing_body_t body;
    wasi_io_streams_own_output_stream_t stream;
    if (!wasi_http_types_method_outgoing_response_set_status_code(borrow, status) ||
        !wasi_http_types_method_outgoing_response_body(borrow, &body) ||
        !wasi_http_types_method_outgoing_body_write(wasi_http_types_borrow_outgoing_body(body),
                                                    &stream))
        abort();
    wasi_http_types_result_own_outgoing_response_error_code_t result = {.is_err = false,
                                                                        .val = {.ok = head}};
    wasi_http_types_static_response_outparam_set(out, &result);
    PRINT(stream, message);
    wasi_http_types_error_code_t error;
    if (!wasi_http_types_static_outgoing_body_finish(body, NULL, &error))
        wasi_http_types_error_code_free(&error);
}

static void compute_and_reply(wasi_http_types_own_response_outparam_t out) {
    uint32_t checksums[3];
    compute(checksums);
    char line[3 * 9], *end = line;
    for (size_t i = 0; i < COUNT(checksums); i++) {
        for (int shift = 28; shift >= 0; shift -= 4)
            *end++ = "0123456789abcdef"[checksums[i] >> shift & 15];
        *end++ = i + 1 < COUNT(checksums) ? ' ' : '\n';
    }
    reply(out, 200, (guest_string_t){.ptr = (uint8_t *)line, .len = sizeof line});
}

void exports_wasi_http_incoming_handler_handle(
    exports_wasi_http_incoming_handler_own_incoming_request_t request,
    exports_wasi_http_incoming_handler_own_response_outparam_t out) {
    guest_string_t path;
    bool has_path = wasi_http_types_method_incoming_request_path_with_query(
        wasi_http_types_borrow_incoming_request(request), &path);
    if (has_path && is(path, "/compute"))
        compute_and_reply(out);
    else
        reply(out, 200, text("ready\n"));
    if (has_path)
        guest_string_free(&path);
    wasi_http_types_incoming_request_drop_own(request);
}
