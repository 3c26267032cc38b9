/* What the components in C share. Each is compiled with the bindings of the world of its name,
 * which call that world `guest`, and with nothing of WASI preview 1. */
#pragma once

#include "guest.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#define MAYBE_UNUSED __attribute__((unused))
#define COUNT(array) (sizeof(array) / sizeof((array)[0]))

/* A string that stays the caller's: a function that takes one does not free it. */
MAYBE_UNUSED static guest_string_t text(const char *string) {
    return (guest_string_t){.ptr = (uint8_t *)string, .len = strlen(string)};
}

MAYBE_UNUSED static bool is(guest_string_t string, const char *other) {
    return string.len == strlen(other) && memcmp(string.ptr, other, string.len) == 0;
}

/* The number at the start of a string, 0 without one. */
MAYBE_UNUSED static uint64_t number(guest_string_t string) {
    uint64_t value = 0;
    for (size_t i = 0; i < string.len && string.ptr[i] >= '0' && string.ptr[i] <= '9'; i++)
        value = value * 10 + (uint64_t)(string.ptr[i] - '0');
    return value;
}

/* The digits of a number, in a buffer of the caller. */
MAYBE_UNUSED static guest_string_t digits(uint64_t value, char buffer[20]) {
    char *end = buffer + 20, *start = end;
    do
        *--start = (char)('0' + value % 10);
    while (value /= 10);
    return (guest_string_t){.ptr = (uint8_t *)start, .len = (size_t)(end - start)};
}

/* Writes everything, as fast as the stream takes it. */
MAYBE_UNUSED static bool write_all(wasi_io_streams_borrow_output_stream_t stream,
                                   const uint8_t *data, size_t len,
                                   wasi_io_streams_stream_error_t *error) {
    while (len > 0) {
        uint64_t room;
        if (!wasi_io_streams_method_output_stream_check_write(stream, &room, error))
            return false;
        if (room == 0) {
            wasi_io_poll_own_pollable_t ready =
                wasi_io_streams_method_output_stream_subscribe(stream);
            wasi_io_poll_method_pollable_block(wasi_io_poll_borrow_pollable(ready));
            wasi_io_poll_pollable_drop_own(ready);
            continue;
        }
        guest_list_u8_t part = {.ptr = (uint8_t *)data, .len = room < len ? room : len};
        if (!wasi_io_streams_method_output_stream_write(stream, &part, error))
            return false;
        data += part.len;
        len -= part.len;
    }
    return true;
}

/* Writes to stdout or stderr; a closed one is no error. */
MAYBE_UNUSED static void print_to(wasi_io_streams_own_output_stream_t own, const guest_string_t *parts,
                                  size_t count) {
    wasi_io_streams_borrow_output_stream_t stream = wasi_io_streams_borrow_output_stream(own);
    wasi_io_streams_stream_error_t error;
    bool open = true;
    for (size_t i = 0; i < count && open; i++)
        open = write_all(stream, parts[i].ptr, parts[i].len, &error);
    if (open)
        open = wasi_io_streams_method_output_stream_blocking_flush(stream, &error);
    if (!open)
        wasi_io_streams_stream_error_free(&error);
    wasi_io_streams_output_stream_drop_own(own);
}

#define PRINT(own, ...)                                                                           \
    do {                                                                                          \
        const guest_string_t parts_[] = {__VA_ARGS__};                                            \
        print_to((own), parts_, COUNT(parts_));                                                   \
    } while (0)
#define OUT(...) PRINT(wasi_cli_stdout_get_stdout(), __VA_ARGS__)
#define ERR(...) PRINT(wasi_cli_stderr_get_stderr(), __VA_ARGS__)

/* The whole contents of a file, by the longest of the preopened directories that begins its
 * path; allocated. */
MAYBE_UNUSED static bool read_file(guest_string_t path, guest_list_u8_t *contents) {
    wasi_filesystem_preopens_list_tuple2_own_descriptor_string_t roots;
    wasi_filesystem_preopens_get_directories(&roots);
    size_t best = roots.len, skip = 0;
    for (size_t i = 0; i < roots.len; i++) {
        guest_string_t name = roots.ptr[i].f1;
        size_t len = name.len;
        if (is(name, "."))
            len = 0;
        else if (len > path.len || memcmp(name.ptr, path.ptr, len) != 0)
            continue;
        else if (len < path.len && name.ptr[len - 1] != '/' && path.ptr[len] != '/')
            continue;
        if (best == roots.len || len > skip) {
            best = i;
            skip = len;
        }
    }
    bool ok = false;
    wasi_filesystem_types_error_code_t error;
    wasi_filesystem_types_own_descriptor_t file;
    if (best < roots.len) {
        while (skip < path.len && path.ptr[skip] == '/')
            skip++;
        guest_string_t rest = {.ptr = path.ptr + skip, .len = path.len - skip};
        ok = wasi_filesystem_types_method_descriptor_open_at(
            wasi_filesystem_types_borrow_descriptor(roots.ptr[best].f0),
            WASI_FILESYSTEM_TYPES_PATH_FLAGS_SYMLINK_FOLLOW, &rest, 0,
            WASI_FILESYSTEM_TYPES_DESCRIPTOR_FLAGS_READ, &file, &error);
    }
    wasi_filesystem_preopens_list_tuple2_own_descriptor_string_free(&roots);
    if (!ok)
        return false;
    *contents = (guest_list_u8_t){0};
    for (bool end = false; ok && !end;) {
        guest_tuple2_list_u8_bool_t part;
        ok = wasi_filesystem_types_method_descriptor_read(
            wasi_filesystem_types_borrow_descriptor(file), 1 << 20, contents->len, &part, &error);
        if (!ok)
            break;
        end = part.f1;
        if (part.f0.len > 0) {
            contents->ptr = realloc(contents->ptr, contents->len + part.f0.len);
            if (contents->ptr == NULL)
                abort();
            memcpy(contents->ptr + contents->len, part.f0.ptr, part.f0.len);
            contents->len += part.f0.len;
        }
        guest_list_u8_free(&part.f0);
    }
    wasi_filesystem_types_descriptor_drop_own(file);
    if (!ok)
        free(contents->ptr);
    return ok;
}
