// gated_silu: y = gate / (1 + e^(−gate)) · up, computed in f32, rounded once.
//
// The ladder:
//   gated_silu_*  as unary
#include "common/elementwise.cuh"

// The exponential never overflows: far below zero the result is g·e^g, not 0.
__device__ inline float silu_of(float g) {
    float e = expf(-fabsf(g));
    return (g >= 0.0f ? g : g * e) / (1.0f + e);
}

#define GATED_SILU(suffix, T)                                                                                           \
    extern "C" __global__ void __launch_bounds__(256)                                                                   \
        gated_silu_##suffix(T* y, const T* gate, const T* up, View gate_view, View up_view, u32 count) {                \
        elementwise_to(                                                                                                 \
            y, count, [](u32, float g, float u) { return silu_of(g) * u; }, Operand<T>{gate, gate_view},     \
            Operand<T>{up, up_view});                                                                                   \
    }                                                                                                                   \
    KERNEL(gated_silu_##suffix)

FOR_FLOATS(GATED_SILU)
