// rope: rotates pair i of every head of x [B, S, H, D] by positions[b, s] · frequencies[i]. Pairs are (i, i + D/2), or (2i, 2i + 1) if `interleaved`;
// `sign` −1 turns back. Angles, cosine and sine are f32; these are rounded to x's type, and so are the two products and their sum, as transformers
// computes them in the activation's type.
//
// The ladder:
//   rope_*  one thread a pair
#include "common/layout.cuh"
#include "common/trigonometry.cuh"

// Any grid of one-dimensional blocks over B · S · H · D/2 pairs.
template <class T>
__device__ inline void rope(T* y, const T* x, const u32* positions, const float* frequencies, const Heads& place, u32 batch, u32 tokens, u32 heads,
                            u32 d, u32 interleaved, float sign) {
    u32 half = d / 2;
    u64 count = static_cast<u64>(batch) * tokens * heads * half, step = static_cast<u64>(gridDim.x) * blockDim.x;
    for (u64 i = static_cast<u64>(blockIdx.x) * blockDim.x + threadIdx.x; i < count; i += step) {
        u32 pair = static_cast<u32>(i % half), row = static_cast<u32>(i / half);
        u32 token = row / heads, head = row % heads;
        u32 first = interleaved ? 2 * pair : pair, second = first + (interleaved ? 1 : half);
        const T* from = x + place.at(token / tokens, token % tokens, head);
        T* to = y + static_cast<u64>(row) * d;
        float a = to_f32(from[first]), b = to_f32(from[second]);
        rotate<T>(a, b, positions[token], frequencies[pair], sign);
        from_f32(to[first], a);
        from_f32(to[second], b);
    }
}

#define ROPE(suffix, T)                                                                                                          \
    extern "C" __global__ void __launch_bounds__(256)                                                                            \
        rope_##suffix(T* y, const T* x, const u32* positions, const float* frequencies, Heads place, u32 batch, u32 tokens,      \
                      u32 heads, u32 d, u32 interleaved, float sign) {                                                           \
        rope(y, x, positions, frequencies, place, batch, tokens, heads, d, interleaved, sign);                                   \
    }                                                                                                                            \
    KERNEL(rope_##suffix)

FOR_FLOATS(ROPE)
