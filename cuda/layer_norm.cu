// layer_norm: y = (x − mean) / √(var + eps) · w + b over rows of n values, with the biased variance; x contiguous [rows, n], w and b [n].
// Sums are f32, the mean first: the variance is of what is left, so that no digits cancel. Rounded once.
//
// The ladder:
//   layer_norm_warp_*  one warp a row, which it reads three times (from L1 after the first); any n
#include "common/prelude.cuh"
#include "common/reduce.cuh"

// Grid ⌈rows/4⌉, block 128.
template <class T>
__device__ inline void layer_norm_warp(T* y, const T* x, const T* w, const T* b, u32 rows, u32 n, float eps) {
    u32 row = blockIdx.x * (blockDim.x / WARP_SIZE) + warp_id();
    if (row >= rows) return;
    x += static_cast<u64>(row) * n;
    y += static_cast<u64>(row) * n;
    float sum = 0.0f;
    for (u32 i = lane_id(); i < n; i += WARP_SIZE) sum += to_f32(x[i]);
    float mean = warp_reduce_sum(sum) / static_cast<float>(n);
    float squares = 0.0f;
    for (u32 i = lane_id(); i < n; i += WARP_SIZE) {
        float centred = to_f32(x[i]) - mean;
        squares += centred * centred;
    }
    float scale = 1.0f / sqrtf(warp_reduce_sum(squares) / static_cast<float>(n) + eps);
    for (u32 i = lane_id(); i < n; i += WARP_SIZE) from_f32(y[i], (to_f32(x[i]) - mean) * scale * to_f32(w[i]) + to_f32(b[i]));
}

#define LAYER_NORM_WARP(name, T)                                                             \
    extern "C" __global__ void __launch_bounds__(128)                                        \
        name(T* y, const T* x, const T* w, const T* b, u32 rows, u32 n, float eps) {         \
        layer_norm_warp(y, x, w, b, rows, n, eps);                                           \
    }                                                                                        \
    KERNEL(name)

LAYER_NORM_WARP(layer_norm_warp_f32, float)
LAYER_NORM_WARP(layer_norm_warp_bf16, bf16)
