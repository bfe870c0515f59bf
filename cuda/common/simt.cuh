// Matrix products without tensor cores, for any operands: a block of 256 threads computes 64×64 sums, 16 of K at a time through shared memory, 4×4 a
// thread. f32 products in f32, and the way for shapes and strides that no other takes.
#pragma once
#include "common/prelude.cuh"

namespace simt {

constexpr u32 TILE = 64, DEPTH = 16, THREADS = 256;
// One more than the tile: threads that write a column of it reach different banks.
constexpr u32 PITCH = TILE + 1;
constexpr u32 BYTES = 2 * 2 * DEPTH * PITCH * 4;
static_assert(BYTES == 16640, "as engine/src/cuda/matmul.rs launches it");
constexpr u32 PARTS = TILE * DEPTH / THREADS;

// Element `i` of this thread's part of a tile: neighbouring threads along K if `along`, else along the lines.
__device__ inline void place_of(u32 i, bool along, u32& line, u32& depth) {
    u32 at = i * THREADS + threadIdx.x;
    line = along ? at / DEPTH : at % TILE;
    depth = along ? at % DEPTH : at / TILE;
}

// Sums of a(row, i) · b(i, column) over i < k, handed to store(row, column, sum). The block's part begins at (first_row, first_column) of m × n;
// `a_along`, `b_along`: K is the direction in which the operand lies contiguous. BYTES of shared memory.
template <class A, class B, class Store>
__device__ inline void product(u32 m, u32 n, u32 k, u32 first_row, u32 first_column, bool a_along, bool b_along, A a, B b, Store store) {
    DYNAMIC_SHARED(shared);
    float* tiles = reinterpret_cast<float*>(shared);
    float next_a[PARTS], next_b[PARTS];
    auto fetch = [&](u32 at) {
#pragma unroll
        for (u32 i = 0; i < PARTS; i++) {
            u32 line, depth;
            place_of(i, a_along, line, depth);
            next_a[i] = first_row + line < m && at + depth < k ? a(first_row + line, at + depth) : 0.0f;
            place_of(i, b_along, line, depth);
            next_b[i] = first_column + line < n && at + depth < k ? b(at + depth, first_column + line) : 0.0f;
        }
    };
    auto put = [&](float* to) {
#pragma unroll
        for (u32 i = 0; i < PARTS; i++) {
            u32 line, depth;
            place_of(i, a_along, line, depth);
            to[depth * PITCH + line] = next_a[i];
            place_of(i, b_along, line, depth);
            to[(DEPTH + depth) * PITCH + line] = next_b[i];
        }
    };
    u32 tx = threadIdx.x % 16, ty = threadIdx.x / 16;
    float sums[4][4] = {};
    u32 stage = 0;
    fetch(0);
    put(tiles);
    for (u32 at = 0; at < k; at += DEPTH) {
        block_sync();
        bool more = at + DEPTH < k;
        if (more) fetch(at + DEPTH);
        const float* tile = tiles + stage * 2 * DEPTH * PITCH;
#pragma unroll
        for (u32 depth = 0; depth < DEPTH; depth++) {
            float left[4], right[4];
#pragma unroll
            for (u32 i = 0; i < 4; i++) {
                left[i] = tile[depth * PITCH + ty + 16 * i];
                right[i] = tile[(DEPTH + depth) * PITCH + tx + 16 * i];
            }
#pragma unroll
            for (u32 i = 0; i < 4; i++) {
#pragma unroll
                for (u32 j = 0; j < 4; j++) sums[i][j] += left[i] * right[j];
            }
        }
        stage = 1 - stage;
        // Read last a step ago, before the barrier of this one.
        if (more) put(tiles + stage * 2 * DEPTH * PITCH);
    }
#pragma unroll
    for (u32 i = 0; i < 4; i++) {
#pragma unroll
        for (u32 j = 0; j < 4; j++) {
            u32 row = first_row + ty + 16 * i, column = first_column + tx + 16 * j;
            if (row < m && column < n) store(row, column, sums[i][j]);
        }
    }
}

}  // namespace simt
