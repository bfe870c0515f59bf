// gated_silu: y = gate / (1 + e^(−gate)) · up; `count` contiguous values, computed in f32, rounded once.
//
// The ladder:
//   gated_silu_*  a grid-stride loop, one value a thread and step
#include "common/prelude.cuh"

// Any grid and block.
#define GATED_SILU(name, T)                                                                                          \
    extern "C" __global__ void __launch_bounds__(256) name(T* y, const T* gate, const T* up, u64 count) {            \
        u64 step = static_cast<u64>(gridDim.x) * blockDim.x;                                                         \
        for (u64 i = static_cast<u64>(blockIdx.x) * blockDim.x + threadIdx.x; i < count; i += step) {                \
            float g = to_f32(gate[i]);                                                                               \
            from_f32(y[i], g / (1.0f + expf(-g)) * to_f32(up[i]));                                                   \
        }                                                                                                            \
    }                                                                                                                \
    KERNEL(name)

GATED_SILU(gated_silu_f32, float)
GATED_SILU(gated_silu_bf16, bf16)
