// Expanding 4-bit weights inside matrix products.
#pragma once
#include "common/quantised.cuh"
#include "common/tile.cuh"

namespace nf4 {

// The exponent of a power of two.
__device__ inline u32 exponent_of(u32 power) {
    u32 exponent = 0;
    while (power > 1) power >>= 1, exponent++;
    return exponent;
}

// Scales whose blocks are powers of two: divisions are shifts.
struct Scales {
    const u8* absmax;
    const float* nested_absmax;
    const float* map;
    float offset;
    u32 shift, nested_shift;

    __device__ explicit Scales(const Quantised& q)
        : absmax(q.absmax), nested_absmax(q.nested_absmax), map(q.map), offset(q.blocks.offset), shift(exponent_of(q.blocks.block)),
          nested_shift(exponent_of(q.blocks.nested_block)) {}

    // Of the block of element `at`.
    __device__ float of(u64 at) const {
        u32 block = static_cast<u32>(at >> shift);
        if (!nested_absmax) return reinterpret_cast<const float*>(absmax)[block];
        return nested_scale(map[absmax[block]], nested_absmax[block >> nested_shift], offset);
    }
};

constexpr u32 TABLE_BYTES = 16 * WARP_SIZE * 4;

// The values of the 16 codes in shared memory once per lane, so that 32 lanes look up 32 codes without a bank conflict: entry c of lane l is at byte
// c · 128 + l · 4.
struct Table {
    const u8* bytes;
    u32 lane;

    // Fills TABLE_BYTES at `to` by all threads; a barrier must follow.
    __device__ static Table spread(u8* to, const float* table) {
        for (u32 i = threadIdx.x; i < 16 * WARP_SIZE; i += blockDim.x) reinterpret_cast<float*>(to)[i] = table[i / WARP_SIZE];
        return {to, lane_id() * 4};
    }
    // Of the code at bit `position` of a word, a constant: one shift that brings it to its byte offset, and one instruction that cuts it out and adds
    // the lane's.
    __device__ float of(u32 word, u32 position) const {
        u32 moved = position < 7 ? word << (7 - position) : word >> (position - 7);
        return *reinterpret_cast<const float*>(bytes + ((moved & 0x780u) | lane));
    }
};

// Codes 2i and 2i + 1 of a word, a byte of it, times their scale as bf16.
template <class Table>
__device__ inline u32 expand_pair(u32 word, u32 i, const Table& table, float scale) {
    return pack_bf16x2(table.of(word, 8 * i + 4) * scale, table.of(word, 8 * i) * scale);
}

// The values of a word of eight codes, rounded once to `T`.
template <class T>
__device__ inline void expand(float (&to)[8], u32 word, const Table& table, float scale) {
#pragma unroll
    for (u32 i = 0; i < 4; i++) {
        to[2 * i] = round_as(T(), table.of(word, 8 * i + 4) * scale);
        to[2 * i + 1] = round_as(T(), table.of(word, 8 * i) * scale);
    }
}

// The outer factor of an adapter, [outer, rank], as it is trained: f32, or of the product's type `T`. A value is scale · B, rounded to `T`.
template <class T>
struct Outer {
    const void* values;
    bool wide;  // f32
    float scale;

    __device__ float of(u64 at) const {
        float v = wide ? static_cast<const float*>(values)[at] : to_f32(static_cast<const T*>(values)[at]);
        return round_as(T(), v * scale);
    }
};

// Sixteen codes a thread on their way into a tile: copied by cp.async into places of the thread's own, where it finds them after its wait without a barrier;
// their scale comes one step later, through registers.
template <u32 THREADS>
struct Stream {
    const u8* codes;
    Scales scales;
    u8* own;
    u32 own_address;
    float scale = 0.0f;

    static constexpr u32 STAGE = THREADS * 8;  // bytes

    // `shared`: STAGE bytes for each stage.
    __device__ Stream(const Quantised& q, u8* shared)
        : codes(q.codes), scales(q), own(shared + threadIdx.x * 8), own_address(smem_u32(own)) {}

    // Starts copying the codes from element `at` on; zeros if there are none.
    __device__ void load(u32 stage, u64 at, bool valid) const { cp_async8_or_zero(own_address + stage * STAGE, codes + (valid ? at / 2 : 0), valid); }
    // The scale for the next `expand`; 0 beyond the weight.
    __device__ void fetch_scale(u64 at, bool valid) { scale = valid ? scales.of(at) : 0.0f; }
    // Sixteen bf16 values at `to`, 16-byte aligned shared memory.
    __device__ void expand(u32 stage, u8* to, const Table& table) const {
        u32x2 packed = *reinterpret_cast<const u32x2*>(own + stage * STAGE);
        u32 words[2] = {packed.x, packed.y};
#pragma unroll
        for (u32 word = 0; word < 2; word++) {
            u32 pairs[4];
#pragma unroll
            for (u32 i = 0; i < 4; i++) pairs[i] = expand_pair(words[word], i, table, scale);
            *reinterpret_cast<u32x4*>(to + 16 * word) = {pairs[0], pairs[1], pairs[2], pairs[3]};
        }
    }
};

// Fills a tile of lines over K, ALONG, of a matrix [lines, k] of any k by `value(place)`; zeros beyond.
template <u32 LINES, u32 THREADS, class F>
__device__ inline void fill_any(u8* to, u32 first, u32 lines, u32 at, u32 k, F value) {
    for (u32 i = threadIdx.x; i < LINES * tile::DEPTH; i += THREADS) {
        u32 line = i / tile::DEPTH, depth = i % tile::DEPTH;
        bool valid = first + line < lines && at + depth < k;
        *reinterpret_cast<bf16*>(to + line * tile::pitch<tile::ALONG, LINES>() + depth * 2) =
            valid ? value(static_cast<u64>(first + line) * k + at + depth) : bf16(0);
    }
}

}  // namespace nf4
