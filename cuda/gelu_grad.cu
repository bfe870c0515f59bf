// gelu_grad: dx = g · gelu′(x), computed in f32, rounded once.
//
// The ladder:
//   gelu_grad_*  as unary
#include "common/elementwise.cuh"
#include "common/gelu.cuh"

#define GELU_GRAD(suffix, T)                                                                                          \
    extern "C" __global__ void __launch_bounds__(256)                                                                 \
        gelu_grad_##suffix(T* dx, const T* x, const T* g, View x_view, View g_view, u32 count, u32 kind) {            \
        elementwise_to(                                                                                               \
            dx, count, [=](u32, float v, float up) { return up * gelu_slope(kind, v); }, Operand<T>{x, x_view},       \
            Operand<T>{g, g_view});                                                                                   \
    }                                                                                                                 \
    KERNEL(gelu_grad_##suffix)

FOR_FLOATS(GELU_GRAD)
