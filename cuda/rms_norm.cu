// rms_norm: y = round(x / √(mean(x²) + eps)) · w over rows of n values; x [rows…, n], w [n]. The normalised value is rounded to x's type before the
// weight multiplies it (Llama). Sums are f32, in an order that n alone decides.
//
// The ladder, of which a block picks its rung:
//   any row      two passes over it, by common/rows.cuh: the second finds it in L1
//   whole rows   of 16-byte parts, at most four a thread: read once and kept in registers. The operation does 4 FLOPs for each value that it moves:
//                reading once is all there is to gain
#include "common/rows.cuh"

// Parts of 16 bytes that a thread keeps.
constexpr u32 KEPT = 4;

// Grid `rows`, block 256, BLOCK_REDUCE_BYTES of shared memory.
template <class T>
__device__ inline void rms_norm(T* y, const T* x, const T* w, const Rows& rows, u32 n, float eps) {
    DYNAMIC_SHARED(shared);
    constexpr u32 LANES = 16 / sizeof(T);
    float* scratch = reinterpret_cast<float*>(shared);
    Line<T> line = line_of(x, rows, blockIdx.x);
    y += static_cast<u64>(blockIdx.x) * n;
    auto scale_of = [=](float squares) { return 1.0f / sqrtf(block_reduce_sum(squares, scratch) / static_cast<float>(n) + eps); };
    float squares = 0.0f;
    bool keeps = line_wide(line, n) && aligned(w, 16) && aligned(y, 16) && n <= KEPT * LANES * blockDim.x;
    if (!keeps) {
        row_each(n, [&squares](u32, float v) { squares = fma_rn(v, v, squares); }, line);
        float scale = scale_of(squares);
        row_map(y, n, [=](u32, float v, float weight) { return round_as(T(), v * scale) * weight; }, line, Line<T>{w, 1});
        return;
    }
    float kept[KEPT][LANES];
#pragma unroll
    for (u32 part = 0; part < KEPT; part++) {
        u32 at = (part * blockDim.x + threadIdx.x) * LANES;
        if (at >= n) break;
        load_values(kept[part], line.data + at);
#pragma unroll
        for (u32 lane = 0; lane < LANES; lane++) squares = fma_rn(kept[part][lane], kept[part][lane], squares);
    }
    float scale = scale_of(squares);
#pragma unroll
    for (u32 part = 0; part < KEPT; part++) {
        u32 at = (part * blockDim.x + threadIdx.x) * LANES;
        if (at >= n) break;
        float weights[LANES], out[LANES];
        load_values(weights, w + at);
#pragma unroll
        for (u32 lane = 0; lane < LANES; lane++) out[lane] = round_as(T(), kept[part][lane] * scale) * weights[lane];
        store_values(y + at, out);
    }
}

#define RMS_NORM(suffix, T)                                                                             \
    extern "C" __global__ void __launch_bounds__(256)                                                   \
        rms_norm_##suffix(T* y, const T* x, const T* w, Rows rows, u32 n, float eps) {                  \
        rms_norm(y, x, w, rows, n, eps);                                                                \
    }                                                                                                   \
    KERNEL(rms_norm_##suffix)

FOR_FLOATS(RMS_NORM)
