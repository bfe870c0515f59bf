// gated_silu_grad: with s = 1/(1 + e^(−gate)): dgate = g · up · s · (1 + gate · (1 − s)), dup = g · gate · s, in one pass.
//
// The ladder:
//   gated_silu_grad_*  as unary
#include "common/elementwise.cuh"

__device__ inline elementwise::Results<2> gated_silu_slopes(float gate, float up, float g) {
    float s = 1.0f / (1.0f + expf(-gate));
    // 1 − s without cancellation where s is near 1.
    float rest = 1.0f / (1.0f + expf(gate));
    return {{g * up * s * (1.0f + gate * rest), g * gate * s}};
}

#define GATED_SILU_GRAD(suffix, T)                                                                                              \
    extern "C" __global__ void __launch_bounds__(256)                                                                           \
        gated_silu_grad_##suffix(T* dgate, T* dup, const T* gate, const T* up, const T* g, View gate_view, View up_view,        \
                                 View g_view, u32 count) {                                                                      \
        T* const outputs[2] = {dgate, dup};                                                                                     \
        elementwise_map(                                                                                                        \
            outputs, count, [](u32, float a, float b, float c) { return gated_silu_slopes(a, b, c); },                          \
            Operand<T>{gate, gate_view}, Operand<T>{up, up_view}, Operand<T>{g, g_view});                                       \
    }                                                                                                                           \
    KERNEL(gated_silu_grad_##suffix)

FOR_FLOATS(GATED_SILU_GRAD)
