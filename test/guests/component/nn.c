#include "command.h"

/* The names of wasi:nn's error codes, in the order of their numbers. */
static const char *const errors[] = {
    "invalid-argument",
    "invalid-encoding",
    "timeout",
    "runtime-error",
    "unsupported-operation",
    "too-large",
    "not-found",
    "security",
    "unknown",
};

_Noreturn static void fail(wasi_nn_errors_own_error_t own) {
    wasi_nn_errors_borrow_error_t error = wasi_nn_errors_borrow_error(own);
    wasi_nn_errors_error_code_t code = wasi_nn_errors_method_error_code(error);
    guest_string_t data;
    wasi_nn_errors_method_error_data(error, &data);
    die(text(code < COUNT(errors) ? errors[code] : "unknown"), data);
}

/* Six digits after the point are enough for the tests' models. */
static void print_float(float value) {
    char whole[20], fraction[20], zeros[] = "000000";
    double positive = value < 0 ? -(double)value : (double)value;
    uint64_t millionths = (uint64_t)(positive * 1e6 + 0.5);
    guest_string_t part = digits(millionths % 1000000, fraction);
    zeros[6 - part.len] = 0;
    OUT(text(value < 0 ? "-" : ""), digits(millionths / 1000000, whole), text("."), text(zeros),
        part);
}

bool exports_wasi_cli_run_run(void) {
    guest_list_string_t arguments;
    wasi_cli_environment_get_arguments(&arguments);
    if (arguments.len != 3)
        die(text("usage"), text("nn MODEL INPUT"));
    guest_list_u8_t file;
    if (!read_file(arguments.ptr[1], &file))
        die(arguments.ptr[1], text("cannot be read"));

    wasi_nn_graph_graph_builder_t builder = {.ptr = file.ptr, .len = file.len};
    wasi_nn_graph_list_graph_builder_t builders = {.ptr = &builder, .len = 1};
    wasi_nn_graph_own_graph_t graph;
    wasi_nn_errors_own_error_t error;
    if (!wasi_nn_graph_load(&builders, WASI_NN_GRAPH_GRAPH_ENCODING_ONNX,
                            WASI_NN_GRAPH_EXECUTION_TARGET_CPU, &graph, &error))
        fail(error);
    wasi_nn_inference_own_graph_execution_context_t context;
    if (!wasi_nn_graph_method_graph_init_execution_context(wasi_nn_graph_borrow_graph(graph),
                                                           &context, &error))
        fail(error);

    uint32_t shape[] = {1, 4};
    float values[] = {1, 2, 3, 4};
    wasi_nn_tensor_tensor_dimensions_t dimensions = {.ptr = shape, .len = COUNT(shape)};
    wasi_nn_tensor_tensor_data_t data = {.ptr = (uint8_t *)values, .len = sizeof values};
    wasi_nn_inference_named_tensor_t input = {
        .f0 = arguments.ptr[2],
        .f1 = wasi_nn_tensor_constructor_tensor(&dimensions, WASI_NN_TENSOR_TENSOR_TYPE_FP32,
                                                &data)};
    wasi_nn_inference_list_named_tensor_t inputs = {.ptr = &input, .len = 1}, outputs;
    if (!wasi_nn_inference_method_graph_execution_context_compute(
            wasi_nn_inference_borrow_graph_execution_context(context), &inputs, &outputs, &error))
        fail(error);

    bool first = true;
    for (size_t i = 0; i < outputs.len; i++) {
        wasi_nn_tensor_tensor_data_t bytes;
        wasi_nn_tensor_method_tensor_data(wasi_nn_tensor_borrow_tensor(outputs.ptr[i].f1),
                                          &bytes);
        for (size_t at = 0; at + sizeof(float) <= bytes.len; at += sizeof(float)) {
            float value;
            memcpy(&value, bytes.ptr + at, sizeof value);
            if (!first)
                OUT(text(" "));
            first = false;
            print_float(value);
        }
    }
    OUT(text("\n"));
    return true;
}
