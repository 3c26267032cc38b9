#include "command.h"

static guest_string_t config(guest_string_t key) {
    guest_option_string_t value;
    wasi_config_store_error_t error;
    if (!wasi_config_store_get(&key, &value, &error))
        die(text(error.tag == WASI_CONFIG_STORE_ERROR_UPSTREAM ? "upstream" : "io"),
            error.val.upstream);
    return value.is_some ? value.val : text("none");
}

_Noreturn static void keyvalue_failed(wasi_keyvalue_store_error_t *error) {
    switch (error->tag) {
    case WASI_KEYVALUE_STORE_ERROR_NO_SUCH_STORE:
        die(text("keyvalue"), text("no-such-store"));
    case WASI_KEYVALUE_STORE_ERROR_ACCESS_DENIED:
        die(text("keyvalue"), text("access-denied"));
    default:
        die(text("other"), error->val.other);
    }
}

static wasi_keyvalue_store_borrow_bucket_t bucket(void) {
    static wasi_keyvalue_store_own_bucket_t own;
    guest_string_t name = text("");
    wasi_keyvalue_store_error_t error;
    if (own.__handle == 0 && !wasi_keyvalue_store_open(&name, &own, &error))
        keyvalue_failed(&error);
    return wasi_keyvalue_store_borrow_bucket(own);
}

static void set(guest_string_t key, guest_string_t value) {
    guest_list_u8_t bytes = {.ptr = value.ptr, .len = value.len};
    wasi_keyvalue_store_error_t error;
    if (!wasi_keyvalue_store_method_bucket_set(bucket(), &key, &bytes, &error))
        keyvalue_failed(&error);
}

static guest_string_t get(guest_string_t key) {
    guest_option_list_u8_t value;
    wasi_keyvalue_store_error_t error;
    if (!wasi_keyvalue_store_method_bucket_get(bucket(), &key, &value, &error))
        keyvalue_failed(&error);
    if (!value.is_some)
        return text("none");
    return (guest_string_t){.ptr = value.val.ptr, .len = value.val.len};
}

bool exports_wasi_cli_run_run(void) {
    guest_list_string_t arguments;
    wasi_cli_environment_get_arguments(&arguments);
    for (size_t i = 1; i < arguments.len;) {
        guest_string_t *argument = arguments.ptr + i;
        size_t left = arguments.len - i;
        if (left >= 2 && is(argument[0], "config")) {
            OUT(config(argument[1]), text("\n"));
            i += 2;
        } else if (left >= 3 && is(argument[0], "set")) {
            set(argument[1], argument[2]);
            i += 3;
        } else if (left >= 2 && is(argument[0], "get")) {
            OUT(get(argument[1]), text("\n"));
            i += 2;
        } else {
            die(text("usage"), text("config KEY, set KEY VALUE or get KEY, any number of them"));
        }
    }
    return true;
}
