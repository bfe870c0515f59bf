// Sums and maxima over a warp and over a block, in an order that depends on the shape alone: the same bits every time.
#pragma once
#include "common/prelude.cuh"

// The sum over the 32 lanes, in every lane. Five exchanges; the sum of lane pairs first.
__device__ inline float warp_reduce_sum(float v) {
#pragma unroll
    for (u32 mask = WARP_SIZE / 2; mask > 0; mask /= 2) v += shfl_xor(v, mask);
    return v;
}

__device__ inline float warp_reduce_max(float v) {
#pragma unroll
    for (u32 mask = WARP_SIZE / 2; mask > 0; mask /= 2) v = fmaxf(v, shfl_xor(v, mask));
    return v;
}

// Bytes of shared memory for reductions over a block: two 32-bit words for each of at most 32 warps.
constexpr u32 BLOCK_REDUCE_BYTES = 2 * 32 * 4;

// `combine` over a one-dimensional block of whole warps, in every thread; `none` changes nothing. `scratch` may be used again at once.
template <class F>
__device__ inline float block_reduce(float v, float none, float* scratch, F combine) {
#pragma unroll
    for (u32 mask = WARP_SIZE / 2; mask > 0; mask /= 2) v = combine(v, shfl_xor(v, mask));
    u32 warps = blockDim.x / WARP_SIZE;
    if (lane_id() == 0) scratch[warp_id()] = v;
    block_sync();
    v = lane_id() < warps ? scratch[lane_id()] : none;
#pragma unroll
    for (u32 mask = WARP_SIZE / 2; mask > 0; mask /= 2) v = combine(v, shfl_xor(v, mask));
    // The next use must not overwrite what another warp still reads.
    block_sync();
    return v;
}

__device__ inline float block_reduce_sum(float v, float* scratch) {
    return block_reduce(v, 0.0f, scratch, [](float a, float b) { return a + b; });
}

// NaN is passed over.
__device__ inline float block_reduce_max(float v, float* scratch) {
    return block_reduce(v, -infinity(), scratch, [](float a, float b) { return fmaxf(a, b); });
}

// An integer that orders as floats do: −0 with 0, NaN above everything.
__device__ inline u32 order_key(float v) {
    if (is_nan(v)) return 0xffffffffu;
    u32 bits = v == 0.0f ? 0 : f32_to_bits(v);
    return bits & 0x80000000u ? ~bits : bits | 0x80000000u;
}

// An element of a row: the larger key comes first, then the lower place.
struct Ranked {
    u32 key, place;

    __device__ bool before(const Ranked& other) const { return key > other.key || (key == other.key && place < other.place); }
};
// Behind every element.
constexpr u32 NO_PLACE = 0xffffffffu;

// The first of the block's, in every thread.
__device__ inline Ranked block_reduce_first(Ranked v, u32* scratch) {
    auto meet = [](Ranked a, u32 mask) {
        Ranked other{shfl_xor(a.key, mask), shfl_xor(a.place, mask)};
        return other.before(a) ? other : a;
    };
#pragma unroll
    for (u32 mask = WARP_SIZE / 2; mask > 0; mask /= 2) v = meet(v, mask);
    u32 warps = blockDim.x / WARP_SIZE;
    if (lane_id() == 0) scratch[2 * warp_id()] = v.key, scratch[2 * warp_id() + 1] = v.place;
    block_sync();
    v = lane_id() < warps ? Ranked{scratch[2 * lane_id()], scratch[2 * lane_id() + 1]} : Ranked{0, NO_PLACE};
#pragma unroll
    for (u32 mask = WARP_SIZE / 2; mask > 0; mask /= 2) v = meet(v, mask);
    block_sync();
    return v;
}
