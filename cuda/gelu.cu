// gelu: y = ½x(1 + tanh(√(2/π)(x + 0.044715x³))), or exactly ½x(1 + erf(x/√2)), computed in f32, rounded once.
//
// The ladder:
//   gelu_*  as unary
#include "common/elementwise.cuh"
#include "common/gelu.cuh"

#define GELU(suffix, T)                                                                                                  \
    extern "C" __global__ void __launch_bounds__(256) gelu_##suffix(T* y, const T* x, View view, u32 count, u32 kind) {  \
        elementwise_to(y, count, [=](u32, float v) { return gelu_of(kind, v); }, Operand<T>{x, view});                   \
    }                                                                                                                    \
    KERNEL(gelu_##suffix)

FOR_FLOATS(GELU)
