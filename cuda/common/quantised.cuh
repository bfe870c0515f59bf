// Values of block-wise codes: table[code] · scale, the scale f32 or, nested, map[code] · nested_absmax + offset. 4-bit codes stand two to a byte, the
// even element in the high half.
#pragma once
#include "common/layout.cuh"

// A scale of the second level, with the roundings of the processor: what a code stands for is the same everywhere.
__device__ inline float nested_scale(float code, float absmax, float offset) { return add_rn(mul_rn(code, absmax), offset); }

// A quantised tensor.
struct Quantised {
    const u8* codes;
    const u8* absmax;  // f32 unless nested
    const float* nested_absmax;
    const float* map;
    const float* table;
    Blocks blocks;

    __device__ float scale(u64 block) const {
        if (!nested_absmax) return reinterpret_cast<const float*>(absmax)[block];
        return nested_scale(map[absmax[block]], nested_absmax[block / blocks.nested_block], blocks.offset);
    }
    // Element `at` of 4 bits.
    __device__ float value4(u64 at) const { return table[codes[at / 2] >> (at % 2 ? 0 : 4) & 15] * scale(at / blocks.block); }
    __device__ float value8(u64 at) const { return table[codes[at]] * scale(at / blocks.block); }
};

// What every kernel over a quantised tensor takes for it, in this order.
#define QUANTISED_POINTERS const u8 *codes, const u8 *absmax, const float *nested_absmax, const float *map, const float *table
#define QUANTISED \
    Quantised { codes, absmax, nested_absmax, map, table, blocks }

// The entry of a rising table nearest to x, by the midpoints between entries: how many lie below x. Ties take the lower one, NaN the lowest.
template <class F>
__device__ inline u32 nearest_entry(float x, u32 entries, F midpoint) {
    u32 low = 0, high = entries - 1;
    while (low < high) {
        u32 middle = (low + high) / 2;
        if (x > midpoint(middle)) {
            low = middle + 1;
        } else {
            high = middle;
        }
    }
    return low;
}
