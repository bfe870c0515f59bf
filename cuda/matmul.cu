// matmul: C = A · B (+ bias), per batch; f32 sums, rounded once to C's type. Shapes: A [M, K], B [K, N], C [M, N], bias [N].
//
// The ladder:
//   matmul_tile_*    any types and strides, on the ordinary units: tiles of 64×64 in shared memory (common/simt.cuh). The reference on the device,
//                    and the way for f32
//   matmul_gemv_*    up to 8 rows of A, and B a weight [N, K]: a warp computes a column of C for all rows and reads the weight's row once, 16 bytes a
//                    lane: the speed of memory
//   matmul_mma_*     tensor cores, bf16. A block of 4 warps computes 64×64 of C, 32 of K at a time, from tiles in shared memory that cp.async fills
//                    two steps ahead (three stages); ldmatrix feeds mma.m16n8k16. Both orders of both operands: forward and both gradients
//   matmul_large_*   the same with 8 warps on 128×128, half the traffic per product: for results that fill the device with such blocks
#include "common/layout.cuh"
#include "common/reduce.cuh"
#include "common/simt.cuh"
#include "common/tile.cuh"

// Grid (⌈N/64⌉, ⌈M/64⌉, batch), block 256, simt::BYTES of shared memory.
template <class Out, class In>
__device__ inline void matmul_tile(Out* c, const In* a, const In* b, const In* bias, const View& a_batch, const View& b_batch, u32 m, u32 n, u32 k,
                                   u32 a_row, u32 a_col, u32 b_row, u32 b_col) {
    u32 batch = blockIdx.z;
    a += a_batch.at(batch);
    b += b_batch.at(batch);
    c += static_cast<u64>(batch) * m * n;
    simt::product(
        m, n, k, blockIdx.y * simt::TILE, blockIdx.x * simt::TILE, a_col <= a_row, b_row < b_col,
        [=](u32 row, u32 i) { return to_f32(a[static_cast<u64>(row) * a_row + static_cast<u64>(i) * a_col]); },
        [=](u32 i, u32 column) { return to_f32(b[static_cast<u64>(i) * b_row + static_cast<u64>(column) * b_col]); },
        [=](u32 row, u32 column, float sum) {
            from_f32(c[static_cast<u64>(row) * n + column], sum + (bias ? to_f32(bias[column]) : 0.0f));
        });
}

constexpr u32 MOST_ROWS = 8;

// Grid (⌈N/4⌉, batch), block 128.
template <class Out, class In>
__device__ inline void matmul_gemv(Out* c, const In* a, const In* b, const In* bias, const View& a_batch, const View& b_batch, u32 m, u32 n, u32 k,
                                   u32 a_row, u32 b_col) {
    constexpr u32 LANES = 8;
    u32 batch = blockIdx.y, column = blockIdx.x * (blockDim.x / WARP_SIZE) + warp_id();
    if (column >= n) return;
    a += a_batch.at(batch);
    b += b_batch.at(batch) + static_cast<u64>(column) * b_col;
    float sums[MOST_ROWS] = {};
    for (u32 at = lane_id() * LANES; at < k; at += WARP_SIZE * LANES) {
        float weights[LANES];
        load_values(weights, b + at);
#pragma unroll
        for (u32 row = 0; row < MOST_ROWS; row++) {
            if (row >= m) break;
            float values[LANES];
            load_values(values, a + static_cast<u64>(row) * a_row + at);
#pragma unroll
            for (u32 i = 0; i < LANES; i++) sums[row] += values[i] * weights[i];
        }
    }
#pragma unroll
    for (u32 row = 0; row < MOST_ROWS; row++) {
        if (row >= m) break;
        float sum = warp_reduce_sum(sums[row]);
        if (lane_id() == 0) from_f32(c[(static_cast<u64>(batch) * m + row) * n + column], sum + (bias ? to_f32(bias[column]) : 0.0f));
    }
}

#define MATMUL(in, In, out, Out)                                                                                                         \
    extern "C" __global__ void __launch_bounds__(256)                                                                                    \
        matmul_tile_##in##_##out(Out* c, const In* a, const In* b, const In* bias, View a_batch, View b_batch, u32 batch, u32 m, u32 n,  \
                                 u32 k, u32 a_row, u32 a_col, u32 b_row, u32 b_col) {                                                    \
        if (blockIdx.z < batch) matmul_tile(c, a, b, bias, a_batch, b_batch, m, n, k, a_row, a_col, b_row, b_col);                       \
    }                                                                                                                                    \
    KERNEL(matmul_tile_##in##_##out)                                                                                                     \
    extern "C" __global__ void __launch_bounds__(128)                                                                                    \
        matmul_gemv_##in##_##out(Out* c, const In* a, const In* b, const In* bias, View a_batch, View b_batch, u32 batch, u32 m, u32 n,  \
                                 u32 k, u32 a_row, u32 b_col) {                                                                          \
        if (blockIdx.y < batch) matmul_gemv(c, a, b, bias, a_batch, b_batch, m, n, k, a_row, b_col);                                     \
    }                                                                                                                                    \
    KERNEL(matmul_gemv_##in##_##out)

MATMUL(f32, float, f32, float)
MATMUL(f32, float, bf16, bf16)
MATMUL(bf16, bf16, f32, float)
MATMUL(bf16, bf16, bf16, bf16)

constexpr u32 STAGES = 3;

// Grid (⌈N/LINES_B⌉, ⌈M/LINES_A⌉, batch), block THREADS, STAGES tiles of both operands in shared memory.
template <class S, tile::Order A, tile::Order B, class Out>
__device__ inline void matmul_mma(Out* c, const bf16* a, const bf16* b, const bf16* bias, const View& a_batch, const View& b_batch, u32 m, u32 n,
                                  u32 k, u32 lda, u32 ldb) {
    DYNAMIC_SHARED(shared);
    constexpr u32 A_BYTES = tile::bytes<S::LINES_A>(), B_BYTES = tile::bytes<S::LINES_B>();
    static_assert(STAGES * (A_BYTES + B_BYTES) == (S::THREADS == 128 ? 30720 : 61440), "as engine/src/cuda/matmul.rs launches it");
    u32 tiles_of_a = smem_u32(shared), tiles_of_b = tiles_of_a + STAGES * A_BYTES;
    u32 first_row = blockIdx.y * S::LINES_A, first_column = blockIdx.x * S::LINES_B;
    a += a_batch.at(blockIdx.z);
    b += b_batch.at(blockIdx.z);

    u32 steps = ceil_div(k, tile::DEPTH);
    // A group per step, empty past the last: then how many may be under way is always the same.
    auto load = [&](u32 step) {
        if (step < steps) {
            u32 stage = step % STAGES, at = step * tile::DEPTH;
            tile::load<A, S::LINES_A, S::THREADS>(tiles_of_a + stage * A_BYTES, a, first_row, m, at, k, lda);
            tile::load<B, S::LINES_B, S::THREADS>(tiles_of_b + stage * B_BYTES, b, first_column, n, at, k, ldb);
        }
        cp_async_commit();
    };
    for (u32 step = 0; step < STAGES - 1; step++) load(step);
    tile::Sums<S> sums;
    for (u32 step = 0; step < steps; step++) {
        // This thread's copies for `step` are there; after the barrier everybody's are, and nobody reads the stage of the step before,
        // which is the one to be filled next.
        cp_async_wait<STAGES - 2>();
        block_sync();
        load(step + STAGES - 1);
        sums.template add<A, B>(tiles_of_a + step % STAGES * A_BYTES, tiles_of_b + step % STAGES * B_BYTES);
    }
    sums.store(c + static_cast<u64>(blockIdx.z) * m * n, bias, first_row, m, first_column, n);
}

#define MATMUL_MMA(rung, S, orders, A, B, out, Out)                                                                                       \
    extern "C" __global__ void __launch_bounds__(tile::S::THREADS)                                                                        \
        matmul_##rung##_##orders##_##out(Out* c, const bf16* a, const bf16* b, const bf16* bias, View a_batch, View b_batch, u32 batch,   \
                                         u32 m, u32 n, u32 k, u32 lda, u32 ldb) {                                                         \
        if (blockIdx.z < batch) matmul_mma<tile::S, tile::A, tile::B>(c, a, b, bias, a_batch, b_batch, m, n, k, lda, ldb);                \
    }                                                                                                                                     \
    KERNEL(matmul_##rung##_##orders##_##out)
#define MATMUL_ORDERS(rung, S, out, Out)                 \
    MATMUL_MMA(rung, S, nn, ALONG, ACROSS, out, Out)     \
    MATMUL_MMA(rung, S, nt, ALONG, ALONG, out, Out)      \
    MATMUL_MMA(rung, S, tn, ACROSS, ACROSS, out, Out)    \
    MATMUL_MMA(rung, S, tt, ACROSS, ALONG, out, Out)

MATMUL_ORDERS(mma, Small, f32, float)
MATMUL_ORDERS(mma, Small, bf16, bf16)
MATMUL_ORDERS(large, Large, f32, float)
MATMUL_ORDERS(large, Large, bf16, bf16)
