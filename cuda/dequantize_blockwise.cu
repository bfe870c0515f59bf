// dequantize_blockwise: y = table[code] · scale, one f32 product, rounded once.
//
// The ladder:
//   dequantize_blockwise_*  eight values a thread where blocks are multiples of eight and pointers allow it: one word of 4-bit codes, one scale, one
//                           store; one value elsewhere
#include "common/quantised.cuh"

// Any grid of one-dimensional blocks.
template <class T>
__device__ inline void dequantize_blockwise(T* y, const Quantised& q, u32 count, u32 bits) {
    constexpr u32 VALUES = 8;
    u64 first = static_cast<u64>(blockIdx.x) * blockDim.x + threadIdx.x, step = static_cast<u64>(gridDim.x) * blockDim.x;
    u32 done = 0;
    if (q.blocks.block % VALUES == 0 && aligned(y, 16) && aligned(q.codes, 8)) {
        u32 parts = count / VALUES;
        for (u64 part = first; part < parts; part += step) {
            float scale = q.scale(part * VALUES / q.blocks.block), values[VALUES];
            if (bits == 4) {
                u32 word = reinterpret_cast<const u32*>(q.codes)[part];
#pragma unroll
                for (u32 i = 0; i < VALUES; i++) values[i] = q.table[word >> (i / 2 * 8 + (i % 2 ? 0 : 4)) & 15] * scale;
            } else {
                u32x2 pair = reinterpret_cast<const u32x2*>(q.codes)[part];
#pragma unroll
                for (u32 i = 0; i < VALUES; i++) values[i] = q.table[(i < 4 ? pair.x : pair.y) >> (i % 4 * 8) & 255] * scale;
            }
            store_values(y + part * VALUES, values);
        }
        done = parts * VALUES;
    }
    for (u64 i = done + first; i < count; i += step) from_f32(y[i], bits == 4 ? q.value4(i) : q.value8(i));
}

#define DEQUANTIZE_BLOCKWISE(suffix, T)                                                                        \
    extern "C" __global__ void __launch_bounds__(256)                                                          \
        dequantize_blockwise_##suffix(T* y, QUANTISED_POINTERS, Blocks blocks, u32 count, u32 bits) {          \
        dequantize_blockwise(y, QUANTISED, count, bits);                                                       \
    }                                                                                                          \
    KERNEL(dequantize_blockwise_##suffix)

FOR_FLOATS(DEQUANTIZE_BLOCKWISE)
