// Matrix products by warpgroups of four warps (wgmma, sm_90a): tiles in shared memory as the instruction reads them, and where its sums lie.
//
// An operand is a set of lines over K, 64 of K a tile, in one of the two orders of tile.cuh. Rows of 128 bytes, eight of which make a piece of 1024 bytes,
// have their 16-byte chunks exchanged: chunk c of row r lies at c xor (r mod 8), so that neither copies nor the instruction meet in a bank (PTX ISA,
// "128-byte swizzle"; the tile must begin at a multiple of 1024).
//   ALONG   a row is a line, its 64 values those of K. Pieces of 8 lines follow each other
//   ACROSS  a row is a place of K, its 64 values those of 64 lines. Pieces of 8 places of K follow each other, then the next 64 lines
#pragma once
#include "common/tile.cuh"

#if HOPPER
namespace warpgroup {

constexpr u32 DEPTH = 64, ROW = 128, PIECE = 8 * ROW, THREADS = 128, COLUMNS = 128;

template <u32 LINES>
__device__ constexpr u32 bytes() {
    return LINES * ROW;
}

// Starts copying a tile from line `first` and place `at` of K; zeros beyond. Conditions as for tile::load.
template <tile::Order ORDER, u32 LINES, u32 BLOCK>
__device__ inline void load(u32 to, const bf16* from, u32 first, u32 lines, u32 at, u32 k, u64 stride) {
    constexpr u32 CHUNKS = (ORDER == tile::ALONG ? DEPTH : LINES) / 8, ROWS = ORDER == tile::ALONG ? LINES : DEPTH;
    static_assert(BLOCK % CHUNKS == 0 && ROWS % (BLOCK / CHUNKS) == 0, "every thread copies as much, and in one column");
    // Rows that a thread copies lie this far apart: a multiple of 8 keeps its chunk where it is.
    constexpr u32 STEP = BLOCK / CHUNKS;
    u32 row = threadIdx.x / CHUNKS, column = threadIdx.x % CHUNKS;
    u32 row_base = ORDER == tile::ALONG ? first : at, row_end = ORDER == tile::ALONG ? lines : k;
    u32 column_base = ORDER == tile::ALONG ? at : first, column_end = ORDER == tile::ALONG ? k : lines;
    bool inside = column_base + column * 8 < column_end;
    const bf16* source = from + (row_base + row) * stride + column_base + column * 8;
    // ACROSS: 64 lines, 8 chunks, are DEPTH rows of their own.
    u32 block = to + column / 8 * (DEPTH * ROW);
#pragma unroll
    for (u32 i = 0; i < ROWS / STEP; i++, source += STEP * stride) {
        u32 r = row + i * STEP;
        bool valid = inside && row_base + r < row_end;
        cp_async16_or_zero(block + r * ROW + ((column ^ r) & 7) * 16, valid ? source : from, valid);
    }
}

// What the instruction takes for an operand: the tile's address from line `line` (ALONG a multiple of 8, ACROSS of 64) and place `k` (a multiple of 16),
// distances of its pieces and the exchange of chunks, each in the bits that the PTX ISA gives it ("matrix descriptor").
template <tile::Order ORDER>
__device__ inline u64 descriptor(u32 tile, u32 line, u32 k) {
    constexpr u64 SWIZZLE_128 = 1ull << 62;
    if constexpr (ORDER == tile::ALONG) {
        // Eight lines are a piece; along K the instruction stays inside a row.
        u64 start = tile + line / 8 * PIECE + k * 2;
        return start >> 4 | 1ull << 16 | static_cast<u64>(PIECE >> 4) << 32 | SWIZZLE_128;
    } else {
        // 64 lines are a stack of pieces, eight of K each.
        u64 start = tile + line / 64 * (DEPTH * ROW) + k / 8 * PIECE;
        return start >> 4 | static_cast<u64>(DEPTH * ROW >> 4) << 16 | static_cast<u64>(PIECE >> 4) << 32 | SWIZZLE_128;
    }
}

// Sums of 64 lines of A and PARTS · 128 of B, by the threads of a warpgroup: sum i of a thread is of row 16 · warp + lane / 4 + 8 (i / 2 mod 2), column
// 8 (i / 4) + 2 (lane mod 4) + i mod 2.
template <u32 PARTS>
struct Sums {
    float values[PARTS][64] = {};

    // Issues the products of two tiles, this warpgroup's lines of A from `line` on, as one group.
    template <tile::Order A, tile::Order B>
    __device__ void add(u32 a, u32 line, u32 b) {
        wgmma_fence();
#pragma unroll
        for (u32 k = 0; k < DEPTH; k += 16) {
            u64 left = descriptor<A>(a, line, k);
#pragma unroll
            for (u32 part = 0; part < PARTS; part++) {
                wgmma_bf16_64x128x16<A, B>(values[part], left, descriptor<B>(b, part * COLUMNS, k));
            }
        }
        wgmma_commit();
    }

    // Rounds the sums, plus `bias` if there is one, into C [rows, columns], this warpgroup's part of which begins at (first_row, first_column).
    template <class Out>
    __device__ void store(Out* c, const bf16* bias, u32 first_row, u32 rows, u32 first_column, u32 columns) const {
        u32 lane = lane_id(), row = first_row + warp_id() % 4 * 16 + lane / 4;
        bool pairs = columns % 2 == 0 && aligned(c, 2 * sizeof(Out));
#pragma unroll
        for (u32 i = 0; i < PARTS * 64; i += 4) {
            u32 column = first_column + i / 4 * 8 + lane % 4 * 2;
            if (column >= columns) continue;
            bool inside = column + 1 < columns;
            float low = bias ? bf16_to_f32(bias[column]) : 0.0f, high = bias && inside ? bf16_to_f32(bias[column + 1]) : 0.0f;
#pragma unroll
            for (u32 half = 0; half < 2; half++) {
                const float* sums = &values[i / 64][i % 64 + 2 * half];
                u32 line = row + half * 8;
                if (line < rows) tile::store_pair(c + static_cast<u64>(line) * columns + column, pairs, inside, sums[0] + low, sums[1] + high);
            }
        }
    }
};

}  // namespace warpgroup
#endif
