#include "guest.h"

#include <stdlib.h>
#include <string.h>

static void append(guest_string_t *to, const void *bytes, size_t len) {
    to->ptr = realloc(to->ptr, to->len + len);
    if (to->ptr == NULL)
        abort();
    memcpy(to->ptr + to->len, bytes, len);
    to->len += len;
}

/* The value of GREETING comes first: this component has an environment too, the container's. */
void exports_lighter_composed_greeting_greet(guest_string_t *name, guest_string_t *ret) {
    static const char variable[] = "GREETING", usual[] = "Hello", end[] = ", from C";
    guest_list_tuple2_string_string_t environment;
    wasi_cli_environment_get_environment(&environment);
    *ret = (guest_string_t){0};
    for (size_t i = 0; i < environment.len; i++) {
        guest_string_t key = environment.ptr[i].f0, value = environment.ptr[i].f1;
        if (key.len == strlen(variable) && memcmp(key.ptr, variable, key.len) == 0)
            append(ret, value.ptr, value.len);
    }
    if (ret->len == 0)
        append(ret, usual, strlen(usual));
    append(ret, ", ", 2);
    append(ret, name->ptr, name->len);
    append(ret, end, strlen(end));
    guest_list_tuple2_string_string_free(&environment);
    guest_string_free(name);
}
