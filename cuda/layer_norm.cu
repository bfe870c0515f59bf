// layer_norm: y = (x − mean) / √(var + eps) · w + b over rows of n values, with the biased variance; x [rows…, n], w and b [n]. Sums are f32, the
// mean first: the variance is of what is left, so that no digits cancel. Rounded once.
//
// The ladder, of which a block picks its rung:
//   any row      three passes over it, by common/rows.cuh: from L1 after the first
//   whole rows   read once and kept in registers, as rms_norm does
#include "common/rows.cuh"

constexpr u32 KEPT = 4;

// Grid `rows`, block 256, BLOCK_REDUCE_BYTES of shared memory.
template <class T>
__device__ inline void layer_norm(T* y, const T* x, const T* w, const T* b, const Rows& rows, u32 n, float eps) {
    DYNAMIC_SHARED(shared);
    constexpr u32 LANES = 16 / sizeof(T);
    float* scratch = reinterpret_cast<float*>(shared);
    Line<T> line = line_of(x, rows, blockIdx.x);
    y += static_cast<u64>(blockIdx.x) * n;
    auto mean_of = [=](float sum) { return block_reduce_sum(sum, scratch) / static_cast<float>(n); };
    float sum = 0.0f, squares = 0.0f;
    bool keeps = line_wide(line, n) && aligned(w, 16) && aligned(b, 16) && aligned(y, 16) && n <= KEPT * LANES * blockDim.x;
    if (!keeps) {
        row_each(n, [&sum](u32, float v) { sum += v; }, line);
        float mean = mean_of(sum);
        row_each(n, [&squares, mean](u32, float v) { squares += (v - mean) * (v - mean); }, line);
        float scale = 1.0f / sqrtf(mean_of(squares) + eps);
        auto turn = [=](u32, float v, float weight, float bias) { return (v - mean) * scale * weight + bias; };
        row_map(y, n, turn, line, Line<T>{w, 1}, Line<T>{b, 1});
        return;
    }
    float kept[KEPT][LANES];
#pragma unroll
    for (u32 part = 0; part < KEPT; part++) {
        u32 at = (part * blockDim.x + threadIdx.x) * LANES;
        if (at >= n) break;
        load_values(kept[part], line.data + at);
#pragma unroll
        for (u32 lane = 0; lane < LANES; lane++) sum += kept[part][lane];
    }
    float mean = mean_of(sum);
#pragma unroll
    for (u32 part = 0; part < KEPT; part++) {
        if ((part * blockDim.x + threadIdx.x) * LANES >= n) break;
#pragma unroll
        for (u32 lane = 0; lane < LANES; lane++) {
            kept[part][lane] -= mean;
            squares += kept[part][lane] * kept[part][lane];
        }
    }
    float scale = 1.0f / sqrtf(mean_of(squares) + eps);
#pragma unroll
    for (u32 part = 0; part < KEPT; part++) {
        u32 at = (part * blockDim.x + threadIdx.x) * LANES;
        if (at >= n) break;
        float weights[LANES], biases[LANES], out[LANES];
        load_values(weights, w + at);
        load_values(biases, b + at);
#pragma unroll
        for (u32 lane = 0; lane < LANES; lane++) out[lane] = kept[part][lane] * scale * weights[lane] + biases[lane];
        store_values(y + at, out);
    }
}

#define LAYER_NORM(suffix, T)                                                                              \
    extern "C" __global__ void __launch_bounds__(256)                                                      \
        layer_norm_##suffix(T* y, const T* x, const T* w, const T* b, Rows rows, u32 n, float eps) {       \
        layer_norm(y, x, w, b, rows, n, eps);                                                              \
    }                                                                                                      \
    KERNEL(layer_norm_##suffix)

FOR_FLOATS(LAYER_NORM)
