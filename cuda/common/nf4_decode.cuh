// A product of up to 8 rows with a 4-bit weight on tensor cores: what linear_nf4_decode and linear_nf4_group do for 16 columns of y.
//
// The weight is the left operand, 16 of its rows by 16 of K, and the rows of x are the 8 columns of the right one. K may come in any order, as long as it
// is the same for both: so each lane reads 16 contiguous bytes (32 codes) of two rows of the weight, which serve eight products, and 32 contiguous values
// of one row of x. Four lanes read 64 bytes of a row, and the next 64 at the same time.
#pragma once
#include "common/nf4.cuh"

namespace nf4 {

constexpr u32 DECODE_THREADS = 256, DECODE_COLUMNS = 16, DECODE_ROWS = 8, DECODE_WARPS = DECODE_THREADS / WARP_SIZE;
// K that a warp takes at a time: two halves of 4 lanes with 32 codes each.
constexpr u32 HALF = 4 * 32, SLAB = 2 * HALF;
constexpr u32 DECODE_SUMS = DECODE_WARPS * DECODE_COLUMNS * DECODE_ROWS * 4;

// The values of both codes of a byte in shared memory, once for every two lanes, so that lanes that look up different bytes do not meet in a bank: pair b
// of lanes l and l + 16 is at byte b · 128 + l mod 16 · 8, and an access of 8 bytes a lane serves sixteen lanes at a time. Instructions are what limits this
// kernel once memory is fast: two codes cost a shift, a cut, the look-up, two products and a conversion.
constexpr u32 PAIRS_BYTES = 256 * 128;
constexpr u32 DECODE_BYTES = PAIRS_BYTES + DECODE_SUMS;
static_assert(DECODE_BYTES == 36864 && TABLE_BYTES == 2048, "as engine/src/cuda/linear_nf4.rs launches it");

// By all threads; a barrier must follow. Neighbours write different banks.
__device__ inline void spread_pairs(u8* to, const float* table) {
    static_assert(DECODE_THREADS == 256, "a byte a thread");
    u32 byte = threadIdx.x, high = f32_to_bits(table[byte >> 4]), low = f32_to_bits(table[byte & 15]);
#pragma unroll
    for (u32 i = 0; i < 8; i++) *reinterpret_cast<u32x4*>(to + byte * 128 + (i + byte) % 8 * 16) = {high, low, high, low};
}

// Byte `i` of a word, a pair of codes, times their scale as bf16. `copy`: where the lane's copy begins.
__device__ inline u32 look_up(const u8* pairs, u32 word, u32 i, u32 copy, float scale) {
    u32 moved = i == 0 ? word << 7 : word >> (8 * i - 7);
    u32x2 values = *reinterpret_cast<const u32x2*>(pairs + ((moved & 0x7f80u) | copy));
    return pack_bf16x2(f32_from_bits(values.x) * scale, f32_from_bits(values.y) * scale);
}

// 32 codes of one row, with their scale.
struct Chunk {
    u32 words[4];
    float scale;

    __device__ static Chunk fetch(const u8* codes, const Scales& scales, u32 at, bool valid) {
        Chunk chunk{{0, 0, 0, 0}, 0.0f};
        if (valid) {
            u32x4 packed = load16_stream(codes + at / 2);
            chunk.words[0] = packed.x, chunk.words[1] = packed.y, chunk.words[2] = packed.z, chunk.words[3] = packed.w;
            chunk.scale = scales.of(at);
        }
        return chunk;
    }
    // Codes 2i and 2i + 1, expanded and rounded.
    __device__ u32 pair(u32 i, const u8* pairs, u32 copy) const { return look_up(pairs, words[i / 4], i % 4, copy, scale); }
};

// Columns `first` to first + 15 of y [rows, outer], first = 16 · `tile`; rows at most 8, inner a multiple of 32. DECODE_BYTES of shared memory.
__device__ inline void decode(bf16* y, const bf16* x, const Quantised& q, const bf16* bias, const bf16* h, Outer<bf16> b, u32 rows, u32 outer,
                              u32 inner, u32 rank, u32 tile) {
    DYNAMIC_SHARED(shared);
    float* partial = reinterpret_cast<float*>(shared + PAIRS_BYTES);
    Scales scales(q);
    u32 lane = lane_id(), first = tile * DECODE_COLUMNS;
    // This lane's rows of the weight, its row of x, and its part of a half.
    u32 column[2] = {first + lane / 4, first + lane / 4 + 8}, row = lane / 4, part = lane % 4 * 32;
    // By way of an exchange: what the compiler knows to be three bits of the lane it would cut out again for every look-up.
    u32 copy = shfl_idx(lane % 16 * 8, lane);
    Chunk chunks[2][2];
    // Everything that comes from afar is under way before anything is used.
    auto fetch = [&](u32 at) {
#pragma unroll
        for (u32 half = 0; half < 2; half++) {
            u32 k = at + half * HALF + part;
#pragma unroll
            for (u32 i = 0; i < 2; i++) {
                chunks[half][i] = Chunk::fetch(q.codes, scales, column[i] * inner + k, k < inner && column[i] < outer);
            }
        }
    };
    u32 at = warp_id() * SLAB;
    fetch(at);
    spread_pairs(shared, q.table);
    block_sync();
    float sums[4] = {};
    while (at < inner) {
#pragma unroll
        for (u32 half = 0; half < 2; half++) {
            u32 k = at + half * HALF + part;
            bool valid = k < inner && row < rows;
            const bf16* inputs = x + (valid ? static_cast<u64>(row) * inner + k : 0);
#pragma unroll
            for (u32 word = 0; word < 4; word++) {
                // Eight values of x: the right operands of two products.
                u32x4 right = valid ? load16(inputs + word * 8) : u32x4{0, 0, 0, 0};
#pragma unroll
                for (u32 i = 0; i < 2; i++) {
                    u32 byte = word * 4 + i * 2;
                    u32 left[4] = {chunks[half][0].pair(byte, shared, copy), chunks[half][1].pair(byte, shared, copy),
                                   chunks[half][0].pair(byte + 1, shared, copy), chunks[half][1].pair(byte + 1, shared, copy)};
                    mma_bf16_16816(sums, left, i == 0 ? right.x : right.z, i == 0 ? right.y : right.w);
                }
            }
        }
        at += DECODE_WARPS * SLAB;
        if (at < inner) fetch(at);
    }
#pragma unroll
    for (u32 r = 0; r < 4; r++) {
        // [row of x][column], of each warp.
        partial[(warp_id() * DECODE_ROWS + lane % 4 * 2 + r % 2) * DECODE_COLUMNS + lane / 4 + r / 2 * 8] = sums[r];
    }
    block_sync();
    u32 out_row = threadIdx.x / DECODE_COLUMNS, out_column = first + threadIdx.x % DECODE_COLUMNS;
    if (out_row >= rows || out_column >= outer) return;
    float sum = bias ? bf16_to_f32(bias[out_column]) : 0.0f;
    for (u32 warp = 0; warp < DECODE_WARPS; warp++) sum += partial[warp * DECODE_ROWS * DECODE_COLUMNS + threadIdx.x];
#pragma unroll 4
    for (u32 i = 0; i < rank; i++) {
        sum = fma_rn(bf16_to_f32(h[static_cast<u64>(out_row) * rank + i]), b.of(static_cast<u64>(out_column) * rank + i), sum);
    }
    y[static_cast<u64>(out_row) * outer + out_column] = f32_to_bf16(sum);
}

}  // namespace nf4
