// The inner part of matrix products on tensor cores: a block of 4 warps computes 64×64 sums of A · Wᵀ from tiles of 64 rows and 32 columns in
// shared memory. A is [rows, K], W is [columns, K]: both with K contiguous, as activations and weights of linear layers are.
#pragma once
#include "common/prelude.cuh"

namespace tile {

constexpr u32 ROWS = 64;      // of A, and of W
constexpr u32 DEPTH = 32;     // of K
constexpr u32 THREADS = 128;  // 2 × 2 warps of 32 × 32 sums
// 80 bytes: the eight rows that ldmatrix reads at once begin in different banks.
constexpr u32 PITCH = (DEPTH + 8) * 2;
constexpr u32 BYTES = ROWS * PITCH;

// Starts copying a tile from `first_row` and column `at` of a matrix [rows, k]; zeros beyond it. k is a multiple of 8.
__device__ inline void load(u32 to, const bf16* from, u32 first_row, u32 rows, u32 at, u32 k) {
    constexpr u32 CHUNKS = DEPTH * 2 / 16;
#pragma unroll
    for (u32 i = 0; i < ROWS * CHUNKS / THREADS; i++) {
        u32 chunk = i * THREADS + threadIdx.x;
        u32 row = chunk / CHUNKS, column = chunk % CHUNKS * 8;
        bool valid = first_row + row < rows && at + column < k;
        u64 offset = valid ? static_cast<u64>(first_row + row) * k + at + column : 0;
        cp_async16_or_zero(to + row * PITCH + column * 2, from + offset, valid);
    }
}

// A thread's part of the 64×64 sums: fragments of 2 × 4 products of 16×8.
struct Sums {
    float values[2][4][4] = {};

    // Where this warp's 32×32 sums begin.
    __device__ static u32 warp_row() { return warp_id() / 2 * 32; }
    __device__ static u32 warp_column() { return warp_id() % 2 * 32; }

    // Adds the products of two tiles.
    __device__ void add(u32 a, u32 w) {
        u32 lane = lane_id();
        // Which row this lane names for ldmatrix. A: rows 0-15 of the left, then of the right half of 16 columns, which gives a0 to a3.
        // W: rows 0-7 left, right, rows 8-15 left, right: b0, b1 of one fragment, then of the next.
        a += (warp_row() + lane % 16) * PITCH + lane / 16 * 16;
        w += (warp_column() + lane / 16 * 8 + lane % 8) * PITCH + lane / 8 % 2 * 16;
#pragma unroll
        for (u32 part = 0; part < DEPTH; part += 16) {
            u32 a_fragments[2][4], w_fragments[2][4];
#pragma unroll
            for (u32 i = 0; i < 2; i++) {
                ldmatrix_x4(a_fragments[i], a + i * 16 * PITCH + part * 2);
                ldmatrix_x4(w_fragments[i], w + i * 16 * PITCH + part * 2);
            }
#pragma unroll
            for (u32 i = 0; i < 2; i++) {
#pragma unroll
                for (u32 j = 0; j < 4; j++) {
                    mma_bf16_16816(values[i][j], a_fragments[i], w_fragments[j / 2][j % 2 * 2], w_fragments[j / 2][j % 2 * 2 + 1]);
                }
            }
        }
    }

    // Rounds the sums, plus `bias` if there is one, into C [rows, columns], of which the block's part begins at (first_row, first_column).
    template <class Out>
    __device__ void store(Out* c, const bf16* bias, u32 first_row, u32 rows, u32 first_column, u32 columns) const {
        u32 lane = lane_id();
#pragma unroll
        for (u32 i = 0; i < 2; i++) {
#pragma unroll
            for (u32 j = 0; j < 4; j++) {
#pragma unroll
                for (u32 r = 0; r < 4; r++) {
                    u32 row = first_row + warp_row() + i * 16 + lane / 4 + r / 2 * 8;
                    u32 column = first_column + warp_column() + j * 8 + lane % 4 * 2 + r % 2;
                    if (row < rows && column < columns) {
                        float value = values[i][j][r] + (bias ? bf16_to_f32(bias[column]) : 0.0f);
                        from_f32(c[static_cast<u64>(row) * columns + column], value);
                    }
                }
            }
        }
    }
};

}  // namespace tile
