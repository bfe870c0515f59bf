// burst: what a device can do at most (engine/src/ops/burst.rs), on f32; the roofline's ceilings are measured with it.
//
//   burst_multiply_adds  eight sums a thread begin at x[i]; `rounds` times, a multiple of 16, s = s/2 + 1/2; y[i] is their sum
//   burst_products       as above with s = s + 2^-4 · 2^-4 by matrix instructions: a warp has 16x8 elements and eight tiles of sums
//   burst_read           y[j] = sum of x[j + i · count], i < repeats
//   burst_triad          y = x + 3 · c
//
// There is no ladder: a ceiling's kernel has one rung. mma.sync does not reach what wgmma does on sm_90a, so that ceiling of products is
// the one of kernels that use mma.sync.
#include "common/prelude.cuh"

__device__ inline u32 element() { return blockIdx.x * blockDim.x + threadIdx.x; }

// A thread for each element of y, of blocks of 256.
extern "C" __global__ void __launch_bounds__(256) burst_multiply_adds(float* y, const float* x, u32 count, u32 rounds) {
    u32 i = element();
    if (i >= count) return;
    float s[8];
#pragma unroll
    for (u32 k = 0; k < 8; k++) s[k] = x[i];
    for (u32 r = 0; r < rounds; r += 16) {
#pragma unroll
        for (u32 u = 0; u < 16; u++) {
#pragma unroll
            for (u32 k = 0; k < 8; k++) s[k] = s[k] * 0.5f + 0.5f;
        }
    }
    y[i] = ((s[0] + s[1]) + (s[2] + s[3])) + ((s[4] + s[5]) + (s[6] + s[7]));
}
KERNEL(burst_multiply_adds)

// Grid of 256 threads over count / 4, whole warps: count is a multiple of 128. Thread l of a warp has the elements 4l … 4l + 3 of its 128: where a tile's element lies is all the same.
extern "C" __global__ void __launch_bounds__(256) burst_products(float* y, const float* x, u32 count, u32 rounds) {
    u32 i = 4 * element();
    if (i >= count) return;
    u32 sixteenths = pack_bf16x2(0.0625f, 0.0625f);
    u32 a[4] = {sixteenths, sixteenths, sixteenths, sixteenths};
    float s[8][4];
#pragma unroll
    for (u32 k = 0; k < 8; k++) {
#pragma unroll
        for (u32 e = 0; e < 4; e++) s[k][e] = x[i + e];
    }
    for (u32 r = 0; r < rounds; r += 16) {
#pragma unroll
        for (u32 k = 0; k < 8; k++) mma_bf16_16816(s[k], a, sixteenths, sixteenths);
    }
#pragma unroll
    for (u32 e = 0; e < 4; e++) {
        y[i + e] = ((s[0][e] + s[1][e]) + (s[2][e] + s[3][e])) + ((s[4][e] + s[5][e]) + (s[6][e] + s[7][e]));
    }
}
KERNEL(burst_products)

extern "C" __global__ void __launch_bounds__(256) burst_read(float* y, const float* x, u32 count, u32 repeats) {
    u32 j = element();
    if (j >= count) return;
    float s[8] = {};
    const float* from = x + j;
    u32 r = 0;
    for (; r + 8 <= repeats; r += 8) {
#pragma unroll
        for (u32 k = 0; k < 8; k++) s[k] += from[static_cast<u64>(r + k) * count];
    }
    for (; r < repeats; r++) s[0] += from[static_cast<u64>(r) * count];
    y[j] = ((s[0] + s[1]) + (s[2] + s[3])) + ((s[4] + s[5]) + (s[6] + s[7]));
}
KERNEL(burst_read)

extern "C" __global__ void __launch_bounds__(256) burst_triad(float* y, const float* x, const float* c, u32 count, u32 repeats) {
    u32 i = element();
    if (i < count) y[i] = x[i] + 3.0f * c[i];
}
KERNEL(burst_triad)
