// unary: y = f(x) for the f of `kind`: e^x, ln x, √x, tanh x, 1/(1 + e^−x), max(x, 0), [x > 0].
//
// The ladder:
//   unary_*  16 bytes a thread where x is dense, one element elsewhere (common/elementwise.cuh)
#include "common/elementwise.cuh"

enum UnaryKind : u32 { EXP, LN, SQRT, TANH, SIGMOID, RELU, STEP };

__device__ inline float unary_of(u32 kind, float x) {
    switch (kind) {
        case EXP: return expf(x);
        case LN: return logf(x);
        case SQRT: return sqrtf(x);
        case TANH: return tanhf(x);
        case SIGMOID: return 1.0f / (1.0f + expf(-x));
        // NaN stays.
        case RELU: return x < 0.0f ? 0.0f : x;
        default: return x > 0.0f ? 1.0f : 0.0f;
    }
}

#define UNARY(suffix, T)                                                                                            \
    extern "C" __global__ void __launch_bounds__(256) unary_##suffix(T* y, const T* x, View view, u32 count, u32 kind) { \
        elementwise_to(y, count, [=](u32, float v) { return unary_of(kind, v); }, Operand<T>{x, view});            \
    }                                                                                                               \
    KERNEL(unary_##suffix)

FOR_FLOATS(UNARY)
