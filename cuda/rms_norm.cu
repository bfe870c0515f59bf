// rms_norm: y = round(x / √(mean(x²) + eps)) · w over rows of n values; x contiguous [rows, n], w [n]. The normalised value is rounded to
// x's type before the weight multiplies it (Llama). Sums are f32, in an order that n alone decides.
//
// The ladder:
//   rms_norm_warp_*   one warp a row, which it reads twice; any n
//   rms_norm_block_*  one block a row, read once, 16 bytes a thread at a time, and kept in registers: n a multiple of 8, at most 8192. The
//                     operation does 4 FLOPs for each value that it moves: reading once is all there is to gain
#include "common/prelude.cuh"
#include "common/reduce.cuh"

// Grid ⌈rows/4⌉, block 128.
template <class T>
__device__ inline void rms_norm_warp(T* y, const T* x, const T* w, u32 rows, u32 n, float eps) {
    u32 row = blockIdx.x * (blockDim.x / WARP_SIZE) + warp_id();
    if (row >= rows) return;
    x += static_cast<u64>(row) * n;
    y += static_cast<u64>(row) * n;
    float squares = 0.0f;
    for (u32 i = lane_id(); i < n; i += WARP_SIZE) squares += to_f32(x[i]) * to_f32(x[i]);
    float scale = 1.0f / sqrtf(warp_reduce_sum(squares) / static_cast<float>(n) + eps);
    for (u32 i = lane_id(); i < n; i += WARP_SIZE) from_f32(y[i], round_as(T(), to_f32(x[i]) * scale) * to_f32(w[i]));
}

#define RMS_NORM_WARP(name, T)                                                                       \
    extern "C" __global__ void __launch_bounds__(128)                                                \
        name(T* y, const T* x, const T* w, u32 rows, u32 n, float eps) {                             \
        rms_norm_warp(y, x, w, rows, n, eps);                                                        \
    }                                                                                                \
    KERNEL(name)

RMS_NORM_WARP(rms_norm_warp_f32, float)
RMS_NORM_WARP(rms_norm_warp_bf16, bf16)

// Grid `rows`, block 256, BLOCK_REDUCE_BYTES of shared memory; rows 16-byte aligned.
extern "C" __global__ void __launch_bounds__(256)
    rms_norm_block_bf16(bf16* y, const bf16* x, const bf16* w, u32 n, float eps) {
    DYNAMIC_SHARED(shared);
    constexpr u32 PARTS = 4;  // of 8 values: 256 · 4 · 8 = 8192
    x += static_cast<u64>(blockIdx.x) * n;
    y += static_cast<u64>(blockIdx.x) * n;
    u32x4 kept[PARTS];
    float squares = 0.0f;
    auto add = [&squares](u32 pair) {
        squares += bf16x2_low(pair) * bf16x2_low(pair) + bf16x2_high(pair) * bf16x2_high(pair);
    };
#pragma unroll
    for (u32 part = 0; part < PARTS; part++) {
        u32 at = (part * blockDim.x + threadIdx.x) * 8;
        kept[part] = at < n ? load16(x + at) : u32x4{0, 0, 0, 0};
        add(kept[part].x), add(kept[part].y), add(kept[part].z), add(kept[part].w);
    }
    float sum = block_reduce_sum(squares, reinterpret_cast<float*>(shared));
    float scale = 1.0f / sqrtf(sum / static_cast<float>(n) + eps);
    auto turn = [scale](u32 pair, u32 weights) {
        float low = round_as(bf16(), bf16x2_low(pair) * scale) * bf16x2_low(weights);
        float high = round_as(bf16(), bf16x2_high(pair) * scale) * bf16x2_high(weights);
        return pack_bf16x2(low, high);
    };
#pragma unroll
    for (u32 part = 0; part < PARTS; part++) {
        u32 at = (part * blockDim.x + threadIdx.x) * 8;
        if (at >= n) continue;
        u32x4 v = kept[part], weights = load16(w + at);
        store16(y + at, {turn(v.x, weights.x), turn(v.y, weights.y), turn(v.z, weights.z), turn(v.w, weights.w)});
    }
}
KERNEL(rms_norm_block_bf16)
