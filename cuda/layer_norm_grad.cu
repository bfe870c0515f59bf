// layer_norm_grad: with x̂ the normalised input, r = 1/√(var + eps) and h = g·w: dx = r·(h − mean(h) − x̂·mean(h·x̂)), dw = Σ_rows g·x̂, db = Σ_rows g.
//
// The ladder:
//   layer_norm_grad_*         dx: a block a row, four passes (from L1 after the first); leaves {mean, r} of each row in `stats`
//   layer_norm_grad_weight_*  dw and db: as rms_norm_grad_weight
#include "common/norm_grad.cuh"
#include "common/rows.cuh"

// Grid `rows`, block 256, BLOCK_REDUCE_BYTES of shared memory.
template <class T>
__device__ inline void layer_norm_grad(T* dx, float* stats, const T* x, const T* w, const T* g, const Rows& x_rows, const Rows& g_rows, u32 n,
                                       float eps) {
    DYNAMIC_SHARED(shared);
    float* scratch = reinterpret_cast<float*>(shared);
    Line<T> values = line_of(x, x_rows, blockIdx.x), ups = line_of(g, g_rows, blockIdx.x), weights{w, 1};
    auto mean_of = [=](float sum) { return block_reduce_sum(sum, scratch) / static_cast<float>(n); };
    float sum = 0.0f, squares = 0.0f, pushed = 0.0f, product = 0.0f;
    row_each(n, [&sum](u32, float v) { sum += v; }, values);
    float mean = mean_of(sum);
    row_each(n, [&squares, mean](u32, float v) { squares += (v - mean) * (v - mean); }, values);
    float r = 1.0f / sqrtf(mean_of(squares) + eps);
    row_each(
        n,
        [&, mean, r](u32, float v, float up, float weight) {
            pushed += up * weight;
            product += up * weight * (v - mean) * r;
        },
        values, ups, weights);
    float push = mean_of(pushed), pull = mean_of(product);
    auto slope = [=](u32, float v, float up, float weight) { return r * (up * weight - push - (v - mean) * r * pull); };
    row_map(dx + static_cast<u64>(blockIdx.x) * n, n, slope, values, ups, weights);
    if (threadIdx.x == 0) {
        stats[2 * blockIdx.x] = mean;
        stats[2 * blockIdx.x + 1] = r;
    }
}

#define LAYER_NORM_GRAD(suffix, T)                                                                                                        \
    extern "C" __global__ void __launch_bounds__(256)                                                                                     \
        layer_norm_grad_##suffix(T* dx, float* stats, const T* x, const T* w, const T* g, Rows x_rows, Rows g_rows, u32 n, float eps) {   \
        layer_norm_grad(dx, stats, x, w, g, x_rows, g_rows, n, eps);                                                                      \
    }                                                                                                                                     \
    KERNEL(layer_norm_grad_##suffix)                                                                                                      \
    extern "C" __global__ void __launch_bounds__(256)                                                                                     \
        layer_norm_grad_weight_##suffix(float* dw_parts, float* db_parts, const T* x, const T* g, const float* stats, Rows x_rows,        \
                                        Rows g_rows, u32 rows, u32 n, u32 rows_per_part) {                                                \
        norm_grad_weight<false>(dw_parts, db_parts, x, g, stats, x_rows, g_rows, rows, n, rows_per_part);                                 \
    }                                                                                                                                     \
    KERNEL(layer_norm_grad_weight_##suffix)

FOR_FLOATS(LAYER_NORM_GRAD)
