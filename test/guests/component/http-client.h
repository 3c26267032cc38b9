/* An outgoing request of wasi:http, for the guests that make one. */
#pragma once

#include "common.h"

/* The names of wasi:http's error codes, in the order of their numbers. */
static const char *const http_errors[] = {
    "DNS-timeout",
    "DNS-error",
    "destination-not-found",
    "destination-unavailable",
    "destination-IP-prohibited",
    "destination-IP-unroutable",
    "connection-refused",
    "connection-terminated",
    "connection-timeout",
    "connection-read-timeout",
    "connection-write-timeout",
    "connection-limit-reached",
    "TLS-protocol-error",
    "TLS-certificate-error",
    "TLS-alert-received",
    "HTTP-request-denied",
    "HTTP-request-length-required",
    "HTTP-request-body-size",
    "HTTP-request-method-invalid",
    "HTTP-request-URI-invalid",
    "HTTP-request-URI-too-long",
    "HTTP-request-header-section-size",
    "HTTP-request-header-size",
    "HTTP-request-trailer-section-size",
    "HTTP-request-trailer-size",
    "HTTP-response-incomplete",
    "HTTP-response-header-section-size",
    "HTTP-response-header-size",
    "HTTP-response-body-size",
    "HTTP-response-trailer-section-size",
    "HTTP-response-trailer-size",
    "HTTP-response-transfer-coding",
    "HTTP-response-content-coding",
    "HTTP-response-timeout",
    "HTTP-upgrade-failed",
    "HTTP-protocol-error",
    "loop-detected",
    "configuration-error",
    "internal-error",
};

static const char *http_error(wasi_http_types_error_code_t *error) {
    const char *name = error->tag < COUNT(http_errors) ? http_errors[error->tag] : "unknown";
    wasi_http_types_error_code_free(error);
    return name;
}

static bool starts_with(guest_string_t string, const char *start) {
    return string.len >= strlen(start) && memcmp(string.ptr, start, strlen(start)) == 0;
}

/* Sends a GET and waits for the head of the response. The error's name, or NULL. */
static const char *get(guest_string_t url, wasi_http_types_own_incoming_response_t *response) {
    wasi_http_types_scheme_t scheme = {.tag = WASI_HTTP_TYPES_SCHEME_HTTP};
    if (starts_with(url, "https://"))
        scheme.tag = WASI_HTTP_TYPES_SCHEME_HTTPS;
    else if (!starts_with(url, "http://"))
        return "HTTP-request-URI-invalid";
    size_t host = scheme.tag == WASI_HTTP_TYPES_SCHEME_HTTPS ? 8 : 7, end = host;
    while (end < url.len && url.ptr[end] != '/')
        end++;
    guest_string_t authority = {.ptr = url.ptr + host, .len = end - host};
    guest_string_t path = {.ptr = url.ptr + end, .len = url.len - end};
    if (path.len == 0)
        path = text("/");

    wasi_http_types_own_outgoing_request_t request =
        wasi_http_types_constructor_outgoing_request(wasi_http_types_constructor_fields());
    wasi_http_types_borrow_outgoing_request_t borrow =
        wasi_http_types_borrow_outgoing_request(request);
    if (!wasi_http_types_method_outgoing_request_set_scheme(borrow, &scheme) ||
        !wasi_http_types_method_outgoing_request_set_authority(borrow, &authority) ||
        !wasi_http_types_method_outgoing_request_set_path_with_query(borrow, &path)) {
        wasi_http_types_outgoing_request_drop_own(request);
        return "HTTP-request-URI-invalid";
    }
    wasi_http_types_own_future_incoming_response_t future;
    wasi_http_types_error_code_t error;
    if (!wasi_http_outgoing_handler_handle(request, NULL, &future, &error))
        return http_error(&error);

    wasi_http_types_borrow_future_incoming_response_t pending =
        wasi_http_types_borrow_future_incoming_response(future);
    wasi_io_poll_own_pollable_t ready =
        wasi_http_types_method_future_incoming_response_subscribe(pending);
    wasi_io_poll_method_pollable_block(wasi_io_poll_borrow_pollable(ready));
    wasi_io_poll_pollable_drop_own(ready);
    wasi_http_types_result_result_own_incoming_response_error_code_void_t result;
    if (!wasi_http_types_method_future_incoming_response_get(pending, &result) || result.is_err)
        abort();
    wasi_http_types_future_incoming_response_drop_own(future);
    if (result.val.ok.is_err)
        return http_error(&result.val.ok.val.err);
    *response = result.val.ok.val.ok;
    return NULL;
}

/* Copies a body to a stream, to its end. The name of the error that ended it before, or NULL. */
static const char *copy_body(wasi_http_types_own_incoming_body_t body,
                             wasi_io_streams_borrow_output_stream_t to) {
    wasi_io_streams_own_input_stream_t stream;
    if (!wasi_http_types_method_incoming_body_stream(wasi_http_types_borrow_incoming_body(body),
                                                     &stream))
        abort();
    const char *name = NULL;
    wasi_io_streams_stream_error_t error;
    for (;;) {
        guest_list_u8_t part;
        if (!wasi_io_streams_method_input_stream_blocking_read(
                wasi_io_streams_borrow_input_stream(stream), 1 << 16, &part, &error)) {
            wasi_http_types_error_code_t code;
            if (error.tag == WASI_IO_STREAMS_STREAM_ERROR_LAST_OPERATION_FAILED) {
                name = "internal-error";
                if (wasi_http_types_http_error_code(
                        wasi_io_error_borrow_error(error.val.last_operation_failed), &code))
                    name = http_error(&code);
            }
            wasi_io_streams_stream_error_free(&error);
            break;
        }
        bool written = write_all(to, part.ptr, part.len, &error);
        guest_list_u8_free(&part);
        if (!written) {
            wasi_io_streams_stream_error_free(&error);
            name = "connection-terminated";
            break;
        }
    }
    wasi_io_streams_input_stream_drop_own(stream);
    wasi_http_types_incoming_body_drop_own(body);
    return name;
}
