// The inner part of matrix products on tensor cores: warps of a block compute LINES_A × LINES_B sums of products from tiles in shared memory, 32 of K at
// a time. An operand is a set of lines over K and lies in one of two orders: ALONG, [lines, K] with K contiguous, as activations and weights of
// linear layers are; or ACROSS, [K, lines] with the lines contiguous. ldmatrix reads either as fragments, the second transposed.
#pragma once
#include "common/prelude.cuh"

namespace tile {

constexpr u32 DEPTH = 32;  // of K

enum Order { ALONG, ACROSS };

// Bytes from one row of a tile to the next. Rows that ldmatrix reads at once begin in different banks.
template <Order ORDER, u32 LINES>
__device__ constexpr u32 pitch() {
    return ORDER == ALONG ? (DEPTH + 8) * 2 : (LINES + 8) * 2;
}

// Of a tile in either order.
template <u32 LINES>
__device__ constexpr u32 bytes() {
    return LINES * (DEPTH + 8) * 2;
}

// Starts copying a tile from line `first` and place `at` of K; zeros beyond. Lines (ACROSS) or k (ALONG) are multiples of 8, and so is `stride`, the
// distance of two rows of memory.
template <Order ORDER, u32 LINES, u32 THREADS>
__device__ inline void load(u32 to, const bf16* from, u32 first, u32 lines, u32 at, u32 k, u64 stride) {
    constexpr u32 CHUNKS = (ORDER == ALONG ? DEPTH : LINES) / 8, ROWS = ORDER == ALONG ? LINES : DEPTH;
    static_assert(ROWS * CHUNKS % THREADS == 0, "every thread copies as much");
    u32 row_base = ORDER == ALONG ? first : at, row_end = ORDER == ALONG ? lines : k;
    u32 column_base = ORDER == ALONG ? at : first, column_end = ORDER == ALONG ? k : lines;
#pragma unroll
    for (u32 i = 0; i < ROWS * CHUNKS / THREADS; i++) {
        u32 chunk = i * THREADS + threadIdx.x, row = chunk / CHUNKS, column = chunk % CHUNKS * 8;
        bool valid = row_base + row < row_end && column_base + column < column_end;
        u64 offset = valid ? (row_base + row) * stride + column_base + column : 0;
        cp_async16_or_zero(to + row * pitch<ORDER, LINES>() + column * 2, from + offset, valid);
    }
}

// The fragment of A for 16 lines and 16 of K.
template <Order ORDER, u32 LINES>
__device__ inline void fragment_a(u32 (&r)[4], u32 tile, u32 line, u32 k) {
    u32 lane = lane_id();
    if constexpr (ORDER == ALONG) {
        ldmatrix_x4(r, tile + (line + lane % 16) * pitch<ORDER, LINES>() + (k + lane / 16 * 8) * 2);
    } else {
        ldmatrix_x4_trans(r, tile + (k + lane / 16 * 8 + lane % 8) * pitch<ORDER, LINES>() + (line + lane / 8 % 2 * 8) * 2);
    }
}

// The fragments of B for 16 lines and 16 of K: b0, b1 of the first eight lines, then of the others.
template <Order ORDER, u32 LINES>
__device__ inline void fragment_b(u32 (&r)[4], u32 tile, u32 line, u32 k) {
    u32 lane = lane_id();
    if constexpr (ORDER == ALONG) {
        ldmatrix_x4(r, tile + (line + lane / 16 * 8 + lane % 8) * pitch<ORDER, LINES>() + (k + lane / 8 % 2 * 8) * 2);
    } else {
        ldmatrix_x4_trans(r, tile + (k + lane / 8 % 2 * 8 + lane % 8) * pitch<ORDER, LINES>() + (line + lane / 16 * 8) * 2);
    }
}

// Rounds two sums into neighbouring places: by one instruction if `together`, the second only if it is `inside`.
template <class Out>
__device__ inline void store_pair(Out* to, bool together, bool inside, float first, float second) {
    if (together) {
        struct alignas(2 * sizeof(Out)) Pair {
            Out low, high;
        } pair;
        from_f32(pair.low, first);
        from_f32(pair.high, second);
        *reinterpret_cast<Pair*>(to) = pair;
    } else {
        from_f32(to[0], first);
        if (inside) from_f32(to[1], second);
    }
}

// Shape of a block: tiles of LINES_A and LINES_B, shared by WARPS_A × WARPS_B warps.
template <u32 A, u32 B, u32 WA, u32 WB>
struct Shape {
    static constexpr u32 LINES_A = A, LINES_B = B, THREADS = WA * WB * WARP_SIZE;
    static constexpr u32 WARP_A = A / WA, WARP_B = B / WB;
    static_assert(WARP_A % 16 == 0 && WARP_B % 16 == 0, "whole fragments");

    // Where this warp's sums begin.
    __device__ static u32 warp_row() { return warp_id() / WB * WARP_A; }
    __device__ static u32 warp_column() { return warp_id() % WB * WARP_B; }
};
typedef Shape<64, 64, 2, 2> Small;
typedef Shape<128, 128, 2, 4> Large;

// A thread's part of a block's sums.
template <class S>
struct Sums {
    static constexpr u32 ROWS = S::WARP_A / 16, COLUMNS = S::WARP_B / 8;
    float values[ROWS][COLUMNS][4] = {};

    // Adds the products of two tiles.
    template <Order A, Order B>
    __device__ void add(u32 a, u32 b) {
#pragma unroll
        for (u32 part = 0; part < DEPTH; part += 16) {
            u32 a_fragments[ROWS][4], b_fragments[COLUMNS / 2][4];
#pragma unroll
            for (u32 i = 0; i < ROWS; i++) fragment_a<A, S::LINES_A>(a_fragments[i], a, S::warp_row() + i * 16, part);
#pragma unroll
            for (u32 j = 0; j < COLUMNS / 2; j++) fragment_b<B, S::LINES_B>(b_fragments[j], b, S::warp_column() + j * 16, part);
#pragma unroll
            for (u32 i = 0; i < ROWS; i++) {
#pragma unroll
                for (u32 j = 0; j < COLUMNS; j++) {
                    mma_bf16_16816(values[i][j], a_fragments[i], b_fragments[j / 2][j % 2 * 2], b_fragments[j / 2][j % 2 * 2 + 1]);
                }
            }
        }
    }

    // `f(value, row, column)` changes each sum; places are counted from the block's first.
    template <class F>
    __device__ void each(F f) {
        u32 lane = lane_id();
#pragma unroll
        for (u32 i = 0; i < ROWS; i++) {
#pragma unroll
            for (u32 j = 0; j < COLUMNS; j++) {
#pragma unroll
                for (u32 r = 0; r < 4; r++) {
                    f(values[i][j][r], S::warp_row() + i * 16 + lane / 4 + r / 2 * 8, S::warp_column() + j * 8 + lane % 4 * 2 + r % 2);
                }
            }
        }
    }

    // Rounds the sums, plus `bias` if there is one, into C [rows, columns], of which the block's part begins at (first_row, first_column).
    template <class Out>
    __device__ void store(Out* c, const bf16* bias, u32 first_row, u32 rows, u32 first_column, u32 columns) const {
        u32 lane = lane_id();
        // Two neighbours lie inside or outside together, and side by side in memory.
        bool pairs = columns % 2 == 0 && aligned(c, 2 * sizeof(Out));
#pragma unroll
        for (u32 j = 0; j < COLUMNS; j++) {
            u32 column = first_column + S::warp_column() + j * 8 + lane % 4 * 2;
            float low = bias && column < columns ? bf16_to_f32(bias[column]) : 0.0f;
            float high = bias && column + 1 < columns ? bf16_to_f32(bias[column + 1]) : 0.0f;
#pragma unroll
            for (u32 i = 0; i < ROWS; i++) {
#pragma unroll
                for (u32 half = 0; half < 2; half++) {
                    u32 row = first_row + S::warp_row() + i * 16 + lane / 4 + half * 8;
                    if (row >= rows || column >= columns) continue;
                    store_pair(c + static_cast<u64>(row) * columns + column, pairs, column + 1 < columns, values[i][j][2 * half] + low,
                               values[i][j][2 * half + 1] + high);
                }
            }
        }
    }
};

}  // namespace tile
