// Which elements dropout keeps: the same bits as `Dropout::hash` of engine/src/ops/dropout.rs.
#pragma once
#include "common/prelude.cuh"

// low and high: halves of the seed's word. threshold 0 keeps everything.
struct Dropout {
    u32 low, high, threshold;
    float scale;

    __device__ bool keeps(u32 index) const {
        u32 x = index ^ low;
        x = (x ^ (x >> 16)) * 0x7feb352du;
        x = ((x ^ (x >> 15)) + high) * 0x846ca68bu;
        return (x ^ (x >> 16)) >= threshold;
    }
    __device__ float of(u32 index, float v) const { return keeps(index) ? v * scale : 0.0f; }
};
