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

// Bytes of shared memory that `block_reduce_sum` needs: one f32 for each of at most 32 warps.
constexpr u32 BLOCK_REDUCE_BYTES = 32 * 4;

// The sum over a one-dimensional block of whole warps, in every thread. `scratch` has BLOCK_REDUCE_BYTES and may be used again at once.
__device__ inline float block_reduce_sum(float v, float* scratch) {
    v = warp_reduce_sum(v);
    u32 warps = blockDim.x / WARP_SIZE;
    if (lane_id() == 0) scratch[warp_id()] = v;
    block_sync();
    float sum = warp_reduce_sum(lane_id() < warps ? scratch[lane_id()] : 0.0f);
    // The next use must not overwrite what another warp still reads.
    block_sync();
    return sum;
}
