// rms_norm_grad: with r = 1/√(mean(x²) + eps) and h = g·w: dx = r·h − x·r³·mean(h·x), dw = Σ_rows g·x·r.
//
// The ladder:
//   rms_norm_grad_*         dx: a block a row, two passes; leaves {0, r} of each row in `stats`
//   rms_norm_grad_weight_*  dw: sums over parts of the rows (common/norm_grad.cuh), to be added by reduce_columns: no atomics, the same bits every time
#include "common/norm_grad.cuh"
#include "common/rows.cuh"

// Grid `rows`, block 256, BLOCK_REDUCE_BYTES of shared memory.
template <class T>
__device__ inline void rms_norm_grad(T* dx, float* stats, const T* x, const T* w, const T* g, const Rows& x_rows, const Rows& g_rows, u32 n,
                                     float eps) {
    DYNAMIC_SHARED(shared);
    float* scratch = reinterpret_cast<float*>(shared);
    Line<T> values = line_of(x, x_rows, blockIdx.x), ups = line_of(g, g_rows, blockIdx.x), weights{w, 1};
    float squares = 0.0f, product = 0.0f;
    row_each(
        n,
        [&](u32, float v, float up, float weight) {
            squares += v * v;
            product += up * weight * v;
        },
        values, ups, weights);
    float r = 1.0f / sqrtf(block_reduce_sum(squares, scratch) / static_cast<float>(n) + eps);
    float pull = block_reduce_sum(product, scratch) / static_cast<float>(n) * r * r * r;
    auto slope = [=](u32, float v, float up, float weight) { return r * up * weight - v * pull; };
    row_map(dx + static_cast<u64>(blockIdx.x) * n, n, slope, values, ups, weights);
    if (threadIdx.x == 0) {
        stats[2 * blockIdx.x] = 0.0f;
        stats[2 * blockIdx.x + 1] = r;
    }
}

#define RMS_NORM_GRAD(suffix, T)                                                                                                        \
    extern "C" __global__ void __launch_bounds__(256)                                                                                   \
        rms_norm_grad_##suffix(T* dx, float* stats, const T* x, const T* w, const T* g, Rows x_rows, Rows g_rows, u32 n, float eps) {   \
        rms_norm_grad(dx, stats, x, w, g, x_rows, g_rows, n, eps);                                                                      \
    }                                                                                                                                   \
    KERNEL(rms_norm_grad_##suffix)                                                                                                      \
    extern "C" __global__ void __launch_bounds__(256)                                                                                   \
        rms_norm_grad_weight_##suffix(float* parts, const T* x, const T* g, const float* stats, Rows x_rows, Rows g_rows, u32 rows,     \
                                      u32 n, u32 rows_per_part) {                                                                       \
        norm_grad_weight<true>(parts, nullptr, x, g, stats, x_rows, g_rows, rows, n, rows_per_part);                                    \
    }                                                                                                                                   \
    KERNEL(rms_norm_grad_weight_##suffix)

FOR_FLOATS(RMS_NORM_GRAD)
