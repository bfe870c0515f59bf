// Layouts as kernels see them; the same words as the Rust structs of these names. Strides are in elements.
#pragma once
#include "common/prelude.cuh"

// A strided view. Sizes of 1 are gone and dimensions that continue each other are one; the rank is at least 1.
struct View {
    u32 sizes[6];
    u32 strides[6];
    u32 rank;

    // Whether element i lies at i.
    __device__ bool dense() const { return rank == 1 && (strides[0] == 1 || sizes[0] <= 1); }

    // Where element `i`, counted row-major, lies. Written without a variable index: one into a parameter would move it to local memory.
    __device__ u32 at(u32 i) const {
        u32 place = 0;
#pragma unroll
        for (u32 d = 5; d > 0; d--) {
            if (d < rank) {
                u32 above = i / sizes[d];
                place += (i - above * sizes[d]) * strides[d];
                i = above;
            }
        }
        return place + i * strides[0];
    }
};

// Rows [rows…, n]: where each begins, and the step within.
struct Rows {
    View rows;
    u32 step;
};

// [B, S, H, D] with contiguous D.
struct Heads {
    u32 batch, token, head;

    __device__ u64 at(u32 b, u32 t, u32 h) const {
        return static_cast<u64>(b) * batch + static_cast<u64>(t) * token + static_cast<u64>(h) * head;
    }
};

// [B, S, H, D] that lies anyhow.
struct Elements {
    u32 batch, token, head, element;

    __device__ u64 at(u32 b, u32 t, u32 h) const {
        return static_cast<u64>(b) * batch + static_cast<u64>(t) * token + static_cast<u64>(h) * head;
    }
};

// Layout of a quantised tensor: values that share a scale; scales that share an absmax, 0 if they are f32; what is added to those.
struct Blocks {
    u32 block, nested_block;
    float offset;
};

// Reports a fault, the first of several: `fault` becomes {number, place, value, 0}.
__device__ inline void report(u32* fault, u32 number, u32 place, u32 value) {
    if (atomic_cas_u32(fault, 0, number) == 0) {
        fault[1] = place;
        fault[2] = value;
    }
}
