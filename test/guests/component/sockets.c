#include "command.h"

typedef wasi_sockets_network_ip_address_t address_t;
typedef wasi_sockets_network_ip_socket_address_t socket_address_t;
typedef wasi_sockets_network_error_code_t code_t;

/* The names of wasi:sockets' error codes, in the order of their numbers. */
static const char *const errors[] = {
    "unknown",
    "access-denied",
    "not-supported",
    "invalid-argument",
    "out-of-memory",
    "timeout",
    "concurrency-conflict",
    "not-in-progress",
    "would-block",
    "invalid-state",
    "new-socket-limit",
    "address-not-bindable",
    "address-in-use",
    "remote-unreachable",
    "connection-refused",
    "connection-reset",
    "connection-aborted",
    "datagram-too-large",
    "name-unresolvable",
    "temporary-resolver-failure",
    "permanent-resolver-failure",
};

enum { IPV4 = WASI_SOCKETS_NETWORK_IP_SOCKET_ADDRESS_IPV4,
       IPV6 = WASI_SOCKETS_NETWORK_IP_SOCKET_ADDRESS_IPV6,
       WOULD_BLOCK = WASI_SOCKETS_NETWORK_ERROR_CODE_WOULD_BLOCK };

_Noreturn static void fail(const char *what, code_t code) {
    die(text(what), text(code < COUNT(errors) ? errors[code] : "unknown"));
}

static wasi_sockets_network_borrow_network_t network(void) {
    static wasi_sockets_network_own_network_t own;
    if (own.__handle == 0)
        own = wasi_sockets_instance_network_instance_network();
    return wasi_sockets_network_borrow_network(own);
}

static void block(wasi_io_poll_own_pollable_t pollable) {
    wasi_io_poll_method_pollable_block(wasi_io_poll_borrow_pollable(pollable));
    wasi_io_poll_pollable_drop_own(pollable);
}

/* Waits for the first of several and says which it is. */
static size_t wait_for(wasi_io_poll_own_pollable_t *pollables, size_t count) {
    wasi_io_poll_borrow_pollable_t borrowed[2];
    for (size_t i = 0; i < count; i++)
        borrowed[i] = wasi_io_poll_borrow_pollable(pollables[i]);
    wasi_io_poll_list_borrow_pollable_t list = {.ptr = borrowed, .len = count};
    guest_list_u32_t ready;
    wasi_io_poll_poll(&list, &ready);
    size_t first = ready.ptr[0];
    guest_list_u32_free(&ready);
    for (size_t i = 0; i < count; i++)
        wasi_io_poll_pollable_drop_own(pollables[i]);
    return first;
}

static wasi_sockets_ip_name_lookup_own_resolve_address_stream_t lookup(guest_string_t name) {
    wasi_sockets_ip_name_lookup_own_resolve_address_stream_t found;
    code_t code;
    if (!wasi_sockets_ip_name_lookup_resolve_addresses(network(), &name, &found, &code))
        fail("resolve", code);
    return found;
}

/* The next of the addresses, or false after the last. */
static bool next(wasi_sockets_ip_name_lookup_own_resolve_address_stream_t own, address_t *address) {
    wasi_sockets_ip_name_lookup_borrow_resolve_address_stream_t stream =
        wasi_sockets_ip_name_lookup_borrow_resolve_address_stream(own);
    wasi_sockets_ip_name_lookup_option_ip_address_t found;
    code_t code;
    while (!wasi_sockets_ip_name_lookup_method_resolve_address_stream_resolve_next_address(
        stream, &found, &code)) {
        if (code != WOULD_BLOCK)
            fail("resolve", code);
        block(wasi_sockets_ip_name_lookup_method_resolve_address_stream_subscribe(stream));
    }
    *address = found.val;
    return found.is_some;
}

static socket_address_t with_port(address_t address, uint16_t port) {
    socket_address_t result = {.tag = address.tag};
    if (address.tag == IPV4) {
        result.val.ipv4.port = port;
        result.val.ipv4.address = address.val.ipv4;
    } else {
        result.val.ipv6.port = port;
        result.val.ipv6.address = address.val.ipv6;
    }
    return result;
}

static socket_address_t any(uint8_t family, uint16_t port) {
    return with_port((address_t){.tag = family}, port);
}

static void resolve(guest_string_t name) {
    wasi_sockets_ip_name_lookup_own_resolve_address_stream_t found = lookup(name);
    address_t address;
    while (next(found, &address)) {
        char buffer[20];
        if (address.tag == IPV4) {
            const uint8_t *bytes = &address.val.ipv4.f0;
            for (int i = 0; i < 4; i++)
                OUT(digits(bytes[i], buffer), text(i < 3 ? "." : "\n"));
            continue;
        }
        const uint16_t *groups = &address.val.ipv6.f0;
        /* The longest run of zeros, of two at least, is written as `::`. */
        int start = 8, length = 1;
        for (int i = 0, run = 0; i < 8; i++) {
            run = groups[i] == 0 ? run + 1 : 0;
            if (run > length) {
                length = run;
                start = i - run + 1;
            }
        }
        for (int i = 0; i < 8; i++) {
            if (i == start) {
                OUT(text("::"));
                i += length - 1;
                continue;
            }
            char hex[4];
            int count = 0;
            for (int shift = 12; shift >= 0; shift -= 4)
                if (count > 0 || groups[i] >> shift || shift == 0)
                    hex[count++] = "0123456789abcdef"[groups[i] >> shift & 15];
            guest_string_t group = {.ptr = (uint8_t *)hex, .len = (size_t)count};
            OUT(text(i > 0 && i != start + length ? ":" : ""), group);
        }
        OUT(text("\n"));
    }
}

typedef wasi_sockets_tcp_own_tcp_socket_t tcp_t;

typedef struct {
    wasi_sockets_tcp_borrow_tcp_socket_t socket;
    wasi_io_streams_borrow_input_stream_t in;
    wasi_io_streams_borrow_output_stream_t out;
} connection_t;

static bool tcp_connect(socket_address_t address, connection_t *connection, code_t *code) {
    tcp_t own;
    if (!wasi_sockets_tcp_create_socket_create_tcp_socket(address.tag, &own, code))
        return false;
    wasi_sockets_tcp_borrow_tcp_socket_t socket = wasi_sockets_tcp_borrow_tcp_socket(own);
    bool ok =
        wasi_sockets_tcp_method_tcp_socket_start_connect(socket, network(), &address, code);
    wasi_sockets_tcp_tuple2_own_input_stream_own_output_stream_t streams;
    while (ok && !wasi_sockets_tcp_method_tcp_socket_finish_connect(socket, &streams, code)) {
        ok = *code == WOULD_BLOCK;
        if (ok)
            block(wasi_sockets_tcp_method_tcp_socket_subscribe(socket));
    }
    if (!ok) {
        wasi_sockets_tcp_tcp_socket_drop_own(own);
        return false;
    }
    connection->socket = socket;
    connection->in = wasi_io_streams_borrow_input_stream(streams.f0);
    connection->out = wasi_io_streams_borrow_output_stream(streams.f1);
    return true;
}

static void stream_failed(const char *what, wasi_io_streams_stream_error_t *error) {
    if (error->tag == WASI_IO_STREAMS_STREAM_ERROR_CLOSED)
        die(text(what), text("closed"));
    guest_string_t message;
    wasi_io_error_method_error_to_debug_string(
        wasi_io_error_borrow_error(error->val.last_operation_failed), &message);
    die(text(what), message);
}

/* Copies what comes in to a stream, until the end. */
static void copy(wasi_io_streams_borrow_input_stream_t from,
                 wasi_io_streams_borrow_output_stream_t to) {
    wasi_io_streams_stream_error_t error;
    guest_list_u8_t part;
    while (wasi_io_streams_method_input_stream_blocking_read(from, 1 << 16, &part, &error)) {
        if (!write_all(to, part.ptr, part.len, &error))
            stream_failed("send", &error);
        guest_list_u8_free(&part);
    }
    if (error.tag != WASI_IO_STREAMS_STREAM_ERROR_CLOSED)
        stream_failed("receive", &error);
    if (!wasi_io_streams_method_output_stream_blocking_flush(to, &error))
        stream_failed("send", &error);
}

static void tcp_client(guest_string_t host, uint16_t port, guest_string_t message) {
    wasi_sockets_ip_name_lookup_own_resolve_address_stream_t found = lookup(host);
    address_t address;
    connection_t connection;
    code_t code = WASI_SOCKETS_NETWORK_ERROR_CODE_NAME_UNRESOLVABLE;
    bool connected = false;
    while (!connected && next(found, &address))
        connected = tcp_connect(with_port(address, port), &connection, &code);
    if (!connected)
        fail("connect", code);
    wasi_io_streams_stream_error_t error;
    if (!write_all(connection.out, message.ptr, message.len, &error) ||
        !wasi_io_streams_method_output_stream_blocking_flush(connection.out, &error))
        stream_failed("send", &error);
    /* Tells the server that this is all. */
    if (!wasi_sockets_tcp_method_tcp_socket_shutdown(
            connection.socket, WASI_SOCKETS_TCP_SHUTDOWN_TYPE_SEND, &code))
        fail("shutdown", code);
    wasi_io_streams_own_output_stream_t out = wasi_cli_stdout_get_stdout();
    copy(connection.in, wasi_io_streams_borrow_output_stream(out));
    OUT(text("\n"));
}

static bool tcp_listen(socket_address_t address, tcp_t *own, code_t *code) {
    if (!wasi_sockets_tcp_create_socket_create_tcp_socket(address.tag, own, code))
        return false;
    wasi_sockets_tcp_borrow_tcp_socket_t socket = wasi_sockets_tcp_borrow_tcp_socket(*own);
    bool ok = wasi_sockets_tcp_method_tcp_socket_start_bind(socket, network(), &address, code);
    while (ok && !wasi_sockets_tcp_method_tcp_socket_finish_bind(socket, code)) {
        ok = *code == WOULD_BLOCK;
        if (ok)
            block(wasi_sockets_tcp_method_tcp_socket_subscribe(socket));
    }
    ok = ok && wasi_sockets_tcp_method_tcp_socket_start_listen(socket, code);
    while (ok && !wasi_sockets_tcp_method_tcp_socket_finish_listen(socket, code)) {
        ok = *code == WOULD_BLOCK;
        if (ok)
            block(wasi_sockets_tcp_method_tcp_socket_subscribe(socket));
    }
    if (!ok)
        wasi_sockets_tcp_tcp_socket_drop_own(*own);
    return ok;
}

/* Listens by IPv4, and by IPv6 where there is that. */
static void tcp_server(uint16_t port) {
    tcp_t sockets[2];
    size_t count = 1;
    code_t code;
    if (!tcp_listen(any(IPV4, port), &sockets[0], &code))
        fail("listen", code);
    if (tcp_listen(any(IPV6, port), &sockets[1], &code))
        count = 2;
    OUT(text("listening\n"));
    wasi_sockets_tcp_tuple3_own_tcp_socket_own_input_stream_own_output_stream_t accepted;
    for (;;) {
        wasi_io_poll_own_pollable_t pollables[2];
        for (size_t i = 0; i < count; i++)
            pollables[i] = wasi_sockets_tcp_method_tcp_socket_subscribe(
                wasi_sockets_tcp_borrow_tcp_socket(sockets[i]));
        size_t ready = wait_for(pollables, count);
        if (wasi_sockets_tcp_method_tcp_socket_accept(
                wasi_sockets_tcp_borrow_tcp_socket(sockets[ready]), &accepted, &code))
            break;
        if (code != WOULD_BLOCK)
            fail("accept", code);
    }
    copy(wasi_io_streams_borrow_input_stream(accepted.f1),
         wasi_io_streams_borrow_output_stream(accepted.f2));
    wasi_io_streams_output_stream_drop_own(accepted.f2);
    wasi_io_streams_input_stream_drop_own(accepted.f1);
    wasi_sockets_tcp_tcp_socket_drop_own(accepted.f0);
}

typedef struct {
    wasi_sockets_udp_borrow_incoming_datagram_stream_t in;
    wasi_sockets_udp_borrow_outgoing_datagram_stream_t out;
} datagrams_t;

static bool udp_bind(socket_address_t local, socket_address_t *remote, datagrams_t *datagrams,
                     code_t *code) {
    wasi_sockets_udp_own_udp_socket_t own;
    if (!wasi_sockets_udp_create_socket_create_udp_socket(local.tag, &own, code))
        return false;
    wasi_sockets_udp_borrow_udp_socket_t socket = wasi_sockets_udp_borrow_udp_socket(own);
    bool ok = wasi_sockets_udp_method_udp_socket_start_bind(socket, network(), &local, code);
    while (ok && !wasi_sockets_udp_method_udp_socket_finish_bind(socket, code)) {
        ok = *code == WOULD_BLOCK;
        if (ok)
            block(wasi_sockets_udp_method_udp_socket_subscribe(socket));
    }
    wasi_sockets_udp_tuple2_own_incoming_datagram_stream_own_outgoing_datagram_stream_t streams;
    if (!ok || !wasi_sockets_udp_method_udp_socket_stream(socket, remote, &streams, code)) {
        wasi_sockets_udp_udp_socket_drop_own(own);
        return false;
    }
    datagrams->in = wasi_sockets_udp_borrow_incoming_datagram_stream(streams.f0);
    datagrams->out = wasi_sockets_udp_borrow_outgoing_datagram_stream(streams.f1);
    return true;
}

static bool udp_send(datagrams_t datagrams, guest_list_u8_t data, const socket_address_t *to,
                     code_t *code) {
    uint64_t sent;
    for (;;) {
        if (!wasi_sockets_udp_method_outgoing_datagram_stream_check_send(datagrams.out, &sent,
                                                                         code))
            return false;
        if (sent > 0)
            break;
        block(wasi_sockets_udp_method_outgoing_datagram_stream_subscribe(datagrams.out));
    }
    wasi_sockets_udp_outgoing_datagram_t datagram = {.data = data};
    if (to != NULL) {
        datagram.remote_address.is_some = true;
        datagram.remote_address.val = *to;
    }
    wasi_sockets_udp_list_outgoing_datagram_t list = {.ptr = &datagram, .len = 1};
    return wasi_sockets_udp_method_outgoing_datagram_stream_send(datagrams.out, &list, &sent,
                                                                 code);
}

/* One datagram, if there is one. */
static bool udp_receive(datagrams_t datagrams, wasi_sockets_udp_incoming_datagram_t *datagram) {
    wasi_sockets_udp_list_incoming_datagram_t list;
    code_t code;
    if (!wasi_sockets_udp_method_incoming_datagram_stream_receive(datagrams.in, 1, &list, &code))
        fail("receive", code);
    if (list.len == 0)
        return false;
    *datagram = list.ptr[0];
    return true;
}

static void udp_client(guest_string_t host, uint16_t port, guest_string_t message) {
    wasi_sockets_ip_name_lookup_own_resolve_address_stream_t found = lookup(host);
    guest_list_u8_t data = {.ptr = message.ptr, .len = message.len};
    address_t address;
    datagrams_t datagrams;
    code_t code = WASI_SOCKETS_NETWORK_ERROR_CODE_NAME_UNRESOLVABLE;
    bool sent = false;
    while (!sent && next(found, &address)) {
        socket_address_t remote = with_port(address, port);
        sent = udp_bind(any(address.tag, 0), &remote, &datagrams, &code) &&
               udp_send(datagrams, data, NULL, &code);
    }
    if (!sent)
        fail("send", code);
    uint64_t end = wasi_clocks_monotonic_clock_now() + 5000000000;
    wasi_sockets_udp_incoming_datagram_t answer;
    while (!udp_receive(datagrams, &answer)) {
        wasi_io_poll_own_pollable_t pollables[] = {
            wasi_sockets_udp_method_incoming_datagram_stream_subscribe(datagrams.in),
            wasi_clocks_monotonic_clock_subscribe_instant(end),
        };
        if (wait_for(pollables, 2) == 1)
            fail("receive", WASI_SOCKETS_NETWORK_ERROR_CODE_TIMEOUT);
    }
    OUT((guest_string_t){.ptr = answer.data.ptr, .len = answer.data.len}, text("\n"));
}

/* Receives by IPv4, and by IPv6 where there is that. */
static void udp_server(uint16_t port) {
    datagrams_t sockets[2];
    size_t count = 1;
    code_t code;
    if (!udp_bind(any(IPV4, port), NULL, &sockets[0], &code))
        fail("bind", code);
    if (udp_bind(any(IPV6, port), NULL, &sockets[1], &code))
        count = 2;
    OUT(text("listening\n"));
    for (;;) {
        wasi_io_poll_own_pollable_t pollables[2];
        for (size_t i = 0; i < count; i++)
            pollables[i] =
                wasi_sockets_udp_method_incoming_datagram_stream_subscribe(sockets[i].in);
        size_t ready = wait_for(pollables, count);
        wasi_sockets_udp_incoming_datagram_t datagram;
        if (!udp_receive(sockets[ready], &datagram))
            continue;
        if (!udp_send(sockets[ready], datagram.data, &datagram.remote_address, &code))
            fail("send", code);
        return;
    }
}

bool exports_wasi_cli_run_run(void) {
    guest_list_string_t list;
    wasi_cli_environment_get_arguments(&list);
    guest_string_t *arguments = list.ptr + 1;
    size_t count = list.len > 0 ? list.len - 1 : 0;
    if (count == 4 && is(arguments[0], "tcp-client"))
        tcp_client(arguments[1], (uint16_t)number(arguments[2]), arguments[3]);
    else if (count == 2 && is(arguments[0], "tcp-server"))
        tcp_server((uint16_t)number(arguments[1]));
    else if (count == 4 && is(arguments[0], "udp-client"))
        udp_client(arguments[1], (uint16_t)number(arguments[2]), arguments[3]);
    else if (count == 2 && is(arguments[0], "udp-server"))
        udp_server((uint16_t)number(arguments[1]));
    else if (count == 2 && is(arguments[0], "resolve"))
        resolve(arguments[1]);
    else
        die(text("usage"), text("sockets tcp-client HOST PORT TEXT, tcp-server PORT, udp-client "
                                "HOST PORT TEXT, udp-server PORT or resolve NAME"));
    return true;
}
