// Gradients of a norm's weight, Σ g·x̂, and of its bias, Σ g, over parts of the rows; `reduce_columns` adds the parts up. x̂ comes from the mean
// and the factor of each row that the gradient of the input has left in `stats`.
#pragma once
#include "common/layout.cuh"

// Grid (⌈n/32⌉, parts), block (32, 8), 2048 bytes of shared memory: a warp reads 32 neighbouring columns of a row, eight warps share the part's rows.
// `db` may be null. `rounded`: x̂ is rounded to T before it counts, as rms_norm does.
template <bool rounded, class T>
__device__ inline void norm_grad_weight(float* dw, float* db, const T* x, const T* g, const float* stats, const Rows& x_rows, const Rows& g_rows,
                                        u32 rows, u32 n, u32 rows_per_part) {
    DYNAMIC_SHARED(shared);
    float* sums = reinterpret_cast<float*>(shared);
    u32 column = blockIdx.x * 32 + threadIdx.x, first = blockIdx.y * rows_per_part;
    float weight = 0.0f, bias = 0.0f;
    if (column < n) {
        for (u32 row = first + threadIdx.y; row < min_u32(first + rows_per_part, rows); row += 8) {
            float v = to_f32(x[x_rows.rows.at(row) + static_cast<u64>(column) * x_rows.step]);
            float up = to_f32(g[g_rows.rows.at(row) + static_cast<u64>(column) * g_rows.step]);
            v = (v - stats[2 * row]) * stats[2 * row + 1];
            weight += up * (rounded ? round_as(T(), v) : v);
            bias += up;
        }
    }
    sums[threadIdx.y * 32 + threadIdx.x] = weight;
    sums[256 + threadIdx.y * 32 + threadIdx.x] = bias;
    block_sync();
    if (threadIdx.y != 0 || column >= n) return;
    for (u32 i = 1; i < 8; i++) {
        weight += sums[i * 32 + threadIdx.x];
        bias += sums[256 + i * 32 + threadIdx.x];
    }
    dw[static_cast<u64>(blockIdx.y) * n + column] = weight;
    if (db) db[static_cast<u64>(blockIdx.y) * n + column] = bias;
}
