// add_rms_norm: sum = round(x + y) and z = round(sum / √(mean(sum²) + eps)) · w over rows of n values; x, y [rows…, n], w [n]. The bits are those of
// binary and rms_norm one after the other: whichever rung runs, squares are added in the order in which rms_norm adds those of a contiguous sum.
//
// The ladder, of which a block picks its rung:
//   any row      two passes, an element at a time: the second reads the sum that the same thread wrote
//   whole rows   of 16-byte parts, at most four a thread: read once and kept in registers
#include "common/rows.cuh"

// Parts of 16 bytes that a thread keeps.
constexpr u32 KEPT = 4;

// Grid `rows`, block 256, BLOCK_REDUCE_BYTES of shared memory.
template <class T>
__device__ inline void add_rms_norm(T* sum, T* z, const T* x, const T* y, const T* w, const Rows& x_rows, const Rows& y_rows, u32 n, float eps) {
    DYNAMIC_SHARED(shared);
    constexpr u32 LANES = 16 / sizeof(T);
    float* scratch = reinterpret_cast<float*>(shared);
    Line<T> a = line_of(x, x_rows, blockIdx.x), b = line_of(y, y_rows, blockIdx.x);
    sum += static_cast<u64>(blockIdx.x) * n;
    z += static_cast<u64>(blockIdx.x) * n;
    auto scale_of = [=](float squares) { return 1.0f / sqrtf(block_reduce_sum(squares, scratch) / static_cast<float>(n) + eps); };
    float squares = 0.0f;
    bool keeps = line_wide(a, n) && line_wide(b, n) && aligned(w, 16) && aligned(sum, 16) && aligned(z, 16) && n <= KEPT * LANES * blockDim.x;
    if (!keeps) {
        u32 run = n % LANES == 0 ? LANES : 1;
        for (u32 at = threadIdx.x * run; at < n; at += blockDim.x * run) {
            for (u32 i = at; i < at + run; i++) {
                float v = round_as(T(), to_f32(a.data[static_cast<u64>(i) * a.step]) + to_f32(b.data[static_cast<u64>(i) * b.step]));
                from_f32(sum[i], v);
                squares = fma_rn(v, v, squares);
            }
        }
        float scale = scale_of(squares);
        for (u32 at = threadIdx.x * run; at < n; at += blockDim.x * run) {
            for (u32 i = at; i < at + run; i++) from_f32(z[i], round_as(T(), to_f32(sum[i]) * scale) * to_f32(w[i]));
        }
        return;
    }
    float kept[KEPT][LANES];
#pragma unroll
    for (u32 part = 0; part < KEPT; part++) {
        u32 at = (part * blockDim.x + threadIdx.x) * LANES;
        if (at >= n) break;
        float other[LANES];
        load_values(kept[part], a.data + at);
        load_values(other, b.data + at);
#pragma unroll
        for (u32 lane = 0; lane < LANES; lane++) {
            kept[part][lane] = round_as(T(), kept[part][lane] + other[lane]);
            squares = fma_rn(kept[part][lane], kept[part][lane], squares);
        }
        store_values(sum + at, kept[part]);
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
        store_values(z + at, out);
    }
}

#define ADD_RMS_NORM(suffix, T)                                                                                          \
    extern "C" __global__ void __launch_bounds__(256)                                                                    \
        add_rms_norm_##suffix(T* sum, T* z, const T* x, const T* y, const T* w, Rows x_rows, Rows y_rows, u32 n, float eps) { \
        add_rms_norm(sum, z, x, y, w, x_rows, y_rows, n, eps);                                                           \
    }                                                                                                                    \
    KERNEL(add_rms_norm_##suffix)

FOR_FLOATS(ADD_RMS_NORM)
