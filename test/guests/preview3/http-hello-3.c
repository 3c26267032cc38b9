/* A service of WASI 0.3. Each request is a task of its own, which returns to the host whenever it
 * waits, so that one instance has several of them at a time. */
#include "guest.h"

#include <stdlib.h>
#include <string.h>

typedef wasi_http_types_future_result_option_own_trailers_error_code_t trailers_t;
typedef wasi_http_types_future_result_option_own_trailers_error_code_writer_t trailers_writer_t;
typedef wasi_http_types_future_result_void_error_code_writer_t consumed_writer_t;

/* A request while it is handled. */
typedef struct {
    guest_waitable_set_t set;
    /* What the set waits for. */
    unsigned pending;
    /* The body of the response, as far as it was not written. */
    char text[64];
    size_t length, written;
    wasi_http_types_stream_u8_writer_t stream;
    trailers_writer_t trailers;
    /* Tells the host that the request's body was read well; 0 when it was not read. */
    consumed_writer_t consumed;
} task_t;

/* The requests that this instance handles, and all that it had. */
static unsigned running, total;

static const wasi_http_types_result_option_own_trailers_error_code_t no_trailers;
static const wasi_http_types_result_void_error_code_t no_error;

static void print(task_t *task, const char *text) {
    task->length = strlen(text);
    memcpy(task->text, text, task->length);
}

static void print_number(task_t *task, unsigned value) {
    char *end = task->text + 20, *start = end;
    *--start = '\n';
    do
        *--start = (char)('0' + value % 10);
    while (value /= 10);
    task->length = (size_t)(end - start);
    memmove(task->text, start, task->length);
}

static void wait_for(task_t *task, uint32_t waitable) {
    guest_waitable_join(waitable, task->set);
    task->pending++;
}

static void trailers_are_written(task_t *task) {
    wasi_http_types_future_result_option_own_trailers_error_code_drop_writable(task->trailers);
}

static void write_trailers(task_t *task) {
    if (wasi_http_types_future_result_option_own_trailers_error_code_write(
            task->trailers, &no_trailers) == GUEST_WAITABLE_STATUS_BLOCKED)
        wait_for(task, task->trailers);
    else
        trailers_are_written(task);
}

/* Counts what was written of the body; whether that was the end of it. */
static bool is_complete(task_t *task, guest_waitable_status_t status) {
    task->written += GUEST_WAITABLE_COUNT(status);
    return task->written == task->length ||
           GUEST_WAITABLE_STATE(status) == GUEST_WAITABLE_DROPPED;
}

static void write_body(task_t *task) {
    for (;;) {
        guest_waitable_status_t status = wasi_http_types_stream_u8_write(
            task->stream, (const uint8_t *)task->text + task->written,
            task->length - task->written);
        if (status == GUEST_WAITABLE_STATUS_BLOCKED) {
            wait_for(task, task->stream);
            return;
        }
        if (is_complete(task, status))
            break;
    }
    wasi_http_types_stream_u8_drop_writable(task->stream);
    write_trailers(task);
}

static void send(wasi_http_types_stream_u8_t body, trailers_t trailers, uint16_t status) {
    wasi_http_types_tuple2_own_response_future_result_void_error_code_t made;
    wasi_http_types_static_response_new(wasi_http_types_constructor_fields(), &body, trailers,
                                        &made);
    wasi_http_types_future_result_void_error_code_drop_readable(made.f1);
    if (status != 200 && !wasi_http_types_method_response_set_status_code(
                             wasi_http_types_borrow_response(made.f0), status))
        abort();
    exports_wasi_http_handler_handle_return(
        (exports_wasi_http_handler_result_own_response_error_code_t){.is_err = false,
                                                                     .val = {.ok = made.f0}});
    running--;
}

static void reply(task_t *task, uint16_t status) {
    wasi_http_types_stream_u8_t body = wasi_http_types_stream_u8_new(&task->stream);
    trailers_t trailers =
        wasi_http_types_future_result_option_own_trailers_error_code_new(&task->trailers);
    send(body, trailers, status);
    write_body(task);
}

/* The request's body becomes the response's, without a byte of it here. */
static void echo(task_t *task, wasi_http_types_own_request_t request) {
    wasi_http_types_tuple2_stream_u8_future_result_option_own_trailers_error_code_t body;
    wasi_http_types_static_request_consume_body(
        request, wasi_http_types_future_result_void_error_code_new(&task->consumed), &body);
    send(body.f0, body.f1, 200);
    if (wasi_http_types_future_result_void_error_code_write(task->consumed, &no_error) ==
        GUEST_WAITABLE_STATUS_BLOCKED)
        wait_for(task, task->consumed);
    else
        wasi_http_types_future_result_void_error_code_drop_writable(task->consumed);
}

static bool is(guest_string_t string, const char *start) {
    return string.len >= strlen(start) && memcmp(string.ptr, start, strlen(start)) == 0;
}

/* The milliseconds of `/together?MS`. */
static uint64_t milliseconds(guest_string_t path) {
    uint64_t value = 0;
    for (size_t i = strlen("/together?"); i < path.len; i++)
        value = value * 10 + (uint64_t)(path.ptr[i] - '0');
    return value;
}

static void route(task_t *task, wasi_http_types_own_request_t request, guest_string_t path) {
    if (is(path, "/echo")) {
        echo(task, request);
        return;
    }
    wasi_http_types_request_drop_own(request);
    if (is(path, "/together?")) {
        guest_subtask_status_t status =
            wasi_clocks_monotonic_clock_wait_for(milliseconds(path) * 1000000);
        if (GUEST_SUBTASK_STATE(status) != GUEST_SUBTASK_RETURNED) {
            wait_for(task, GUEST_SUBTASK_HANDLE(status));
            return;
        }
        print_number(task, running);
        reply(task, 200);
    } else if (is(path, "/count")) {
        print_number(task, total);
        reply(task, 200);
    } else if (is(path, "/trap")) {
        __builtin_trap();
    } else if (is(path, "/spin")) {
        for (volatile uint32_t i = 0;; i++) {
        }
    } else if (path.len == 1) {
        print(task, "Hello from WASI 0.3\n");
        reply(task, 200);
    } else {
        print(task, "no such path\n");
        reply(task, 404);
    }
}

static guest_callback_code_t wait_or_end(task_t *task) {
    if (task->pending > 0)
        return GUEST_CALLBACK_CODE_WAIT(task->set);
    guest_waitable_set_drop(task->set);
    free(task);
    return GUEST_CALLBACK_CODE_EXIT;
}

guest_callback_code_t
exports_wasi_http_handler_handle(exports_wasi_http_handler_own_request_t request) {
    task_t *task = calloc(1, sizeof *task);
    if (task == NULL)
        abort();
    task->set = guest_waitable_set_new();
    guest_context_set_0(task);
    running++;
    total++;
    guest_string_t path;
    if (!wasi_http_types_method_request_get_path_with_query(
            wasi_http_types_borrow_request(request), &path))
        guest_string_dup(&path, "/");
    route(task, request, path);
    guest_string_free(&path);
    return wait_or_end(task);
}

guest_callback_code_t exports_wasi_http_handler_handle_callback(guest_event_t *event) {
    task_t *task = guest_context_get_0();
    switch (event->event) {
    case GUEST_EVENT_SUBTASK:
        if (GUEST_SUBTASK_STATE(event->code) != GUEST_SUBTASK_RETURNED)
            break;
        task->pending--;
        guest_subtask_drop(event->waitable);
        print_number(task, running);
        reply(task, 200);
        break;
    case GUEST_EVENT_STREAM_WRITE:
        task->pending--;
        guest_waitable_join(task->stream, 0);
        if (is_complete(task, event->code)) {
            wasi_http_types_stream_u8_drop_writable(task->stream);
            write_trailers(task);
        } else {
            write_body(task);
        }
        break;
    case GUEST_EVENT_FUTURE_WRITE:
        task->pending--;
        if (event->waitable == task->consumed)
            wasi_http_types_future_result_void_error_code_drop_writable(task->consumed);
        else
            trailers_are_written(task);
        break;
    default:
        abort();
    }
    return wait_or_end(task);
}
