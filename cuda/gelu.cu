// gelu: y = ½x(1 + tanh(√(2/π)(x + 0.044715x³))), or exactly ½x(1 + erf(x/√2)); `count` contiguous values, computed in f32, rounded once.
//
// The ladder:
//   gelu_*  a grid-stride loop, one value a thread and step: neighbours in a warp read neighbouring values, which fills whole sectors
#include "common/prelude.cuh"

// ½(1 + tanh u) is 1 / (1 + e^(−2u)): one exponential, and no digit cancels where tanh is near −1.
__device__ inline float gelu_of(float x, bool exact) {
    constexpr float TWICE_SQRT_2_PI = 1.595769122f;
    if (exact) return 0.5f * x * (1.0f + erff(x * 0.707106781f));
    return x / (1.0f + expf(-TWICE_SQRT_2_PI * (x + 0.044715f * x * x * x)));
}

// Any grid and block.
#define GELU(name, T)                                                                                   \
    extern "C" __global__ void __launch_bounds__(256) name(T* y, const T* x, u64 count, u32 exact) {    \
        u64 step = static_cast<u64>(gridDim.x) * blockDim.x;                                            \
        for (u64 i = static_cast<u64>(blockIdx.x) * blockDim.x + threadIdx.x; i < count; i += step) {   \
            from_f32(y[i], gelu_of(to_f32(x[i]), exact != 0));                                          \
        }                                                                                               \
    }                                                                                                   \
    KERNEL(name)

GELU(gelu_f32, float)
GELU(gelu_bf16, bf16)
