#include "http-client.h"

typedef wasi_http_types_own_response_outparam_t outparam_t;

/* What a response is while its body is written. */
typedef struct {
    wasi_http_types_own_outgoing_response_t head;
    wasi_http_types_own_outgoing_body_t body;
    wasi_io_streams_own_output_stream_t own;
    wasi_io_streams_borrow_output_stream_t stream;
} response_t;

static response_t response(wasi_http_types_own_fields_t headers, uint16_t status) {
    response_t response = {.head = wasi_http_types_constructor_outgoing_response(headers)};
    wasi_http_types_borrow_outgoing_response_t head =
        wasi_http_types_borrow_outgoing_response(response.head);
    if (status != 200 && !wasi_http_types_method_outgoing_response_set_status_code(head, status))
        abort();
    if (!wasi_http_types_method_outgoing_response_body(head, &response.body) ||
        !wasi_http_types_method_outgoing_body_write(
            wasi_http_types_borrow_outgoing_body(response.body), &response.own))
        abort();
    response.stream = wasi_io_streams_borrow_output_stream(response.own);
    return response;
}

static void send(response_t response, outparam_t out) {
    wasi_http_types_result_own_outgoing_response_error_code_t result = {
        .is_err = false, .val = {.ok = response.head}};
    wasi_http_types_static_response_outparam_set(out, &result);
}

/* A body that is not finished is cut off where it is. */
static void finish(response_t response, bool complete) {
    wasi_io_streams_output_stream_drop_own(response.own);
    if (!complete) {
        wasi_http_types_outgoing_body_drop_own(response.body);
        return;
    }
    wasi_http_types_error_code_t error;
    if (!wasi_http_types_static_outgoing_body_finish(response.body, NULL, &error))
        wasi_http_types_error_code_free(&error);
}

static bool append(response_t response, const uint8_t *data, size_t len) {
    wasi_io_streams_stream_error_t error;
    bool ok = write_all(response.stream, data, len, &error);
    if (!ok)
        wasi_io_streams_stream_error_free(&error);
    return ok;
}

/* A whole response of two parts, by as few calls as there can be. A short one is written before
 * it is sent: then the server has all of it at once. */
static void reply(outparam_t out, uint16_t status, guest_string_t first, guest_string_t second) {
    char buffer[20];
    guest_string_t length = digits(first.len + second.len, buffer);
    wasi_http_types_tuple2_field_name_field_value_t entry = {
        .f0 = text("content-length"), .f1 = {.ptr = length.ptr, .len = length.len}};
    wasi_http_types_list_tuple2_field_name_field_value_t entries = {.ptr = &entry, .len = 1};
    wasi_http_types_own_fields_t headers;
    wasi_http_types_header_error_t error;
    if (!wasi_http_types_static_fields_from_list(&entries, &headers, &error))
        abort();
    response_t answer = response(headers, status);

    uint64_t room;
    wasi_io_streams_stream_error_t stream_error;
    if (second.len == 0 &&
        wasi_io_streams_method_output_stream_check_write(answer.stream, &room, &stream_error) &&
        room >= first.len) {
        guest_list_u8_t whole = {.ptr = first.ptr, .len = first.len};
        finish(answer,
               wasi_io_streams_method_output_stream_write(answer.stream, &whole, &stream_error));
        send(answer, out);
        return;
    }
    send(answer, out);
    finish(answer, append(answer, first.ptr, first.len) && append(answer, second.ptr, second.len));
}

static void reply_text(outparam_t out, uint16_t status, const char *message) {
    reply(out, status, text(message), text(""));
}

static void echo(outparam_t out, wasi_http_types_borrow_incoming_request_t request) {
    wasi_http_types_own_incoming_body_t body;
    if (!wasi_http_types_method_incoming_request_consume(request, &body))
        abort();
    response_t answer = response(wasi_http_types_constructor_fields(), 200);
    send(answer, out);
    finish(answer, copy_body(body, answer.stream) == NULL);
}

static void env(outparam_t out, guest_string_t name) {
    guest_list_tuple2_string_string_t all;
    wasi_cli_environment_get_environment(&all);
    size_t i = 0;
    while (i < all.len &&
           (all.ptr[i].f0.len != name.len || memcmp(all.ptr[i].f0.ptr, name.ptr, name.len) != 0))
        i++;
    if (i < all.len)
        reply(out, 200, all.ptr[i].f1, text(""));
    else
        reply_text(out, 404, "none\n");
    guest_list_tuple2_string_string_free(&all);
}

static void header(outparam_t out, wasi_http_types_borrow_incoming_request_t request,
                   guest_string_t name) {
    wasi_http_types_own_headers_t headers =
        wasi_http_types_method_incoming_request_headers(request);
    wasi_http_types_list_field_value_t values;
    wasi_http_types_method_fields_get(wasi_http_types_borrow_fields(headers), &name, &values);
    if (values.len > 0) {
        guest_string_t value = {.ptr = values.ptr[0].ptr, .len = values.ptr[0].len};
        reply(out, 200, value, text(""));
    } else {
        reply_text(out, 404, "none\n");
    }
    wasi_http_types_list_field_value_free(&values);
    wasi_http_types_fields_drop_own(headers);
}

static void grow(outparam_t out, uint64_t mib) {
    size_t size = (size_t)(mib << 20);
    volatile char *memory = mib < 4096 ? malloc(size) : NULL;
    for (size_t i = 0; memory != NULL && i < size; i += 4096)
        memory[i] = 1;
    if (memory != NULL)
        reply_text(out, 200, "grown\n");
    else
        reply_text(out, 500, "refused\n");
}

static void big(outparam_t out, uint64_t mib) {
    static uint8_t block[1 << 16];
    memset(block, 'x', sizeof block);
    response_t answer = response(wasi_http_types_constructor_fields(), 200);
    send(answer, out);
    bool ok = true;
    for (uint64_t i = 0; ok && i < mib * ((1 << 20) / sizeof block); i++)
        ok = append(answer, block, sizeof block);
    finish(answer, ok);
}

static void fetch(outparam_t out, guest_string_t url) {
    wasi_http_types_own_incoming_response_t got;
    const char *error = get(url, &got);
    if (error != NULL) {
        reply(out, 502, text(error), text("\n"));
        return;
    }
    wasi_http_types_borrow_incoming_response_t borrow =
        wasi_http_types_borrow_incoming_response(got);
    wasi_http_types_own_incoming_body_t body;
    if (!wasi_http_types_method_incoming_response_consume(borrow, &body))
        abort();
    char buffer[20];
    guest_string_t status =
        digits(wasi_http_types_method_incoming_response_status(borrow), buffer);
    response_t answer = response(wasi_http_types_constructor_fields(), 200);
    send(answer, out);
    finish(answer, append(answer, status.ptr, status.len) &&
                       append(answer, (const uint8_t *)"\n", 1) &&
                       copy_body(body, answer.stream) == NULL);
    wasi_http_types_incoming_response_drop_own(got);
}

/* Appends the hexadecimal digits of bytes and the end of a line. */
static char *hexadecimal(char *to, const uint8_t *bytes, size_t len) {
    for (size_t i = 0; i < len; i++) {
        *to++ = "0123456789abcdef"[bytes[i] >> 4];
        *to++ = "0123456789abcdef"[bytes[i] & 15];
    }
    *to++ = '\n';
    return to;
}

/* What each interface of wasi:random gives first. */
static void random_bytes(outparam_t out) {
    char lines[3 * 33], *end = lines;
    guest_list_u8_t bytes;
    wasi_random_random_get_random_bytes(16, &bytes);
    end = hexadecimal(end, bytes.ptr, bytes.len);
    guest_list_u8_free(&bytes);
    wasi_random_insecure_get_insecure_random_bytes(16, &bytes);
    end = hexadecimal(end, bytes.ptr, bytes.len);
    guest_list_u8_free(&bytes);
    guest_tuple2_u64_u64_t seed;
    wasi_random_insecure_seed_insecure_seed(&seed);
    end = hexadecimal(end, (const uint8_t *)&seed, sizeof seed);
    guest_string_t whole = {.ptr = (uint8_t *)lines, .len = (size_t)(end - lines)};
    reply(out, 200, whole, text(""));
}

/* Calls itself for ever, as the number that would end it is none; what it still has to do after
 * each call is not in memory, so that the engine's stack is full before the program's own is. */
__attribute__((noinline)) static uint64_t endless_recursion(uint64_t depth) {
    static volatile uint64_t end;
    if (depth == end)
        return 0;
    return endless_recursion(depth + 1) + end;
}

static void route(outparam_t out, wasi_http_types_borrow_incoming_request_t request,
                  guest_string_t path, guest_string_t query) {
    if (is(path, "/")) {
        reply_text(out, 200, "Hello from Wasm\n");
    } else if (is(path, "/echo")) {
        echo(out, request);
    } else if (is(path, "/env")) {
        env(out, query);
    } else if (is(path, "/header")) {
        header(out, request, query);
    } else if (is(path, "/spin")) {
        for (volatile uint32_t i = 0;; i++) {
        }
    } else if (is(path, "/trap")) {
        __builtin_trap();
    } else if (is(path, "/overflow")) {
        char buffer[20];
        reply(out, 200, digits(endless_recursion(1), buffer), text("\n"));
    } else if (is(path, "/random")) {
        random_bytes(out);
    } else if (is(path, "/sleep")) {
        wasi_io_poll_own_pollable_t timer =
            wasi_clocks_monotonic_clock_subscribe_duration(number(query) * 1000000);
        wasi_io_poll_method_pollable_block(wasi_io_poll_borrow_pollable(timer));
        wasi_io_poll_pollable_drop_own(timer);
        reply_text(out, 200, "slept\n");
    } else if (is(path, "/print")) {
        OUT(text("out: "), query, text("\n"));
        ERR(text("err: "), query, text("\n"));
        reply_text(out, 200, "printed\n");
    } else if (is(path, "/grow")) {
        grow(out, number(query));
    } else if (is(path, "/fetch")) {
        fetch(out, query);
    } else if (is(path, "/read")) {
        guest_list_u8_t contents;
        if (read_file(query, &contents)) {
            reply(out, 200, (guest_string_t){.ptr = contents.ptr, .len = contents.len}, text(""));
            free(contents.ptr);
        } else {
            reply_text(out, 404, "none\n");
        }
    } else if (is(path, "/count")) {
        static uint64_t count;
        char buffer[20];
        reply(out, 200, digits(++count, buffer), text("\n"));
    } else if (is(path, "/big")) {
        big(out, number(query));
    } else {
        reply_text(out, 404, "no such path\n");
    }
}

void exports_wasi_http_incoming_handler_handle(
    exports_wasi_http_incoming_handler_own_incoming_request_t request,
    exports_wasi_http_incoming_handler_own_response_outparam_t out) {
    wasi_http_types_borrow_incoming_request_t borrow =
        wasi_http_types_borrow_incoming_request(request);
    guest_string_t whole;
    if (!wasi_http_types_method_incoming_request_path_with_query(borrow, &whole))
        guest_string_dup(&whole, "/");
    guest_string_t path = whole, query = {.ptr = whole.ptr + whole.len, .len = 0};
    const uint8_t *mark = memchr(whole.ptr, '?', whole.len);
    if (mark != NULL) {
        path.len = (size_t)(mark - whole.ptr);
        query = (guest_string_t){.ptr = whole.ptr + path.len + 1, .len = whole.len - path.len - 1};
    }
    route(out, borrow, path, query);
    guest_string_free(&whole);
    wasi_http_types_incoming_request_drop_own(request);
}
