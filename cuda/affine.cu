// affine: y = mul · x + add, in f32, rounded once.
//
// The ladder:
//   affine_*  as unary
#include "common/elementwise.cuh"

#define AFFINE(suffix, T)                                                                                                           \
    extern "C" __global__ void __launch_bounds__(256) affine_##suffix(T* y, const T* x, View view, u32 count, float mul, float add) { \
        elementwise_to(y, count, [=](u32, float v) { return mul * v + add; }, Operand<T>{x, view});                                \
    }                                                                                                                               \
    KERNEL(affine_##suffix)

FOR_FLOATS(AFFINE)
