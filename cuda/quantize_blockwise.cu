// quantize_blockwise: absmax = max |x| of each block of `block` values, and the code of the table's entry nearest to x · (1/absmax). 4-bit codes stand
// two to a byte, the even element in the high half; the half after an odd count has the code of 0.
//
// The ladder:
//   quantize_blockwise_*  a warp a block: the maximum first, then the codes, whose bytes are neighbours in a warp
#include "common/quantised.cuh"
#include "common/reduce.cuh"

// Grid ⌈⌈count/block⌉/4⌉, block 128.
template <class T>
__device__ inline void quantize_blockwise(u8* codes, float* absmax, const T* x, const float* midpoints, const u8* entry_codes, u32 count, u32 block,
                                          u32 entries, u32 bits) {
    u32 number = blockIdx.x * (blockDim.x / WARP_SIZE) + warp_id();
    u64 first = static_cast<u64>(number) * block;
    if (first >= count) return;
    u32 size = min_u32(block, static_cast<u32>(count - first));
    x += first;
    // A NaN would vanish in a maximum: it must show in the scale, where callers look.
    auto larger = [](float a, float b) { return b > a || is_nan(b) ? b : a; };
    float most = 0.0f;
    for (u32 i = lane_id(); i < size; i += WARP_SIZE) most = larger(most, fabsf(to_f32(x[i])));
#pragma unroll
    for (u32 mask = WARP_SIZE / 2; mask > 0; mask /= 2) most = larger(most, shfl_xor(most, mask));
    if (lane_id() == 0) absmax[number] = most;
    // As the reference: a block of zeros is not divided by 0.
    float inverse = 1.0f / fmaxf(most, 1e-38f);
    auto entry = [=](float v) {
        v *= inverse;
        // NaN stays, and takes the lowest entry.
        v = v < -1.0f ? -1.0f : v > 1.0f ? 1.0f : v;
        return entry_codes[nearest_entry(v, entries, [=](u32 i) { return midpoints[i]; })];
    };
    if (bits == 8) {
        for (u32 i = lane_id(); i < size; i += WARP_SIZE) codes[first + i] = entry(to_f32(x[i]));
        return;
    }
    for (u32 i = lane_id(); i < (size + 1) / 2; i += WARP_SIZE) {
        u32 even = entry(to_f32(x[2 * i])), odd = entry(2 * i + 1 < size ? to_f32(x[2 * i + 1]) : 0.0f);
        codes[first / 2 + i] = static_cast<u8>(even << 4 | odd);
    }
}

#define QUANTIZE_BLOCKWISE(suffix, T)                                                                                               \
    extern "C" __global__ void __launch_bounds__(128)                                                                               \
        quantize_blockwise_##suffix(u8* codes, float* absmax, const T* x, const float* midpoints, const u8* entry_codes, u32 count, \
                                    u32 block, u32 entries, u32 bits) {                                                             \
        quantize_blockwise(codes, absmax, x, midpoints, entry_codes, count, block, entries, bits);                                  \
    }                                                                                                                               \
    KERNEL(quantize_blockwise_##suffix)

FOR_FLOATS(QUANTIZE_BLOCKWISE)
