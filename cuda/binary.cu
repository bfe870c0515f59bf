// binary: y = a ∘ b for the ∘ of `kind`: +, −, ·, /. Broadcasting is in the views: strides of 0.
//
// The ladder:
//   binary_*  as unary
#include "common/elementwise.cuh"

enum BinaryKind : u32 { ADD, SUB, MUL, DIV };

__device__ inline float binary_of(u32 kind, float a, float b) {
    switch (kind) {
        case ADD: return a + b;
        case SUB: return a - b;
        case MUL: return a * b;
        default: return a / b;
    }
}

#define BINARY(suffix, T)                                                                                          \
    extern "C" __global__ void __launch_bounds__(256)                                                              \
        binary_##suffix(T* y, const T* a, const T* b, View a_view, View b_view, u32 count, u32 kind) {             \
        elementwise_to(                                                                                            \
            y, count, [=](u32, float u, float v) { return binary_of(kind, u, v); }, Operand<T>{a, a_view},         \
            Operand<T>{b, b_view});                                                                                \
    }                                                                                                              \
    KERNEL(binary_##suffix)

FOR_FLOATS(BINARY)
