// rope: rotates pair i of every head of x [tokens, heads, D] by position · theta^(−2i/D). Pairs are (i, i + D/2), or (2i, 2i + 1) if
// `interleaved`; `inverse` turns back. Cosine and sine are rounded to x's type, and so are the two products and their sum, as transformers
// computes them in the activation's type.
//
// The angles' cosines and sines come in tables [table_rows, D/2] of f32, which the host makes once for all layers: every layer turns by the
// same angles, and the range reduction of cosf for large angles would cost a stack frame. Positions must lie below `table_rows`; others
// leave NaNs.
//
// The ladder:
//   rope_*  one thread a pair
#include "common/prelude.cuh"

// Grid ⌈tokens · heads · D/2 / block⌉.
template <class T>
__device__ inline void rope(T* y, const T* x, const u32* positions, const float* cosines, const float* sines, u32 tokens, u32 heads,
                            u32 d, u32 table_rows, u32 interleaved, u32 inverse) {
    u64 i = static_cast<u64>(blockIdx.x) * blockDim.x + threadIdx.x;
    u32 half = d / 2;
    if (i >= static_cast<u64>(tokens) * heads * half) return;
    u32 pair = static_cast<u32>(i % half);
    u64 head = i / half;
    u32 position = positions[head / heads];
    bool known = position < table_rows;
    u64 at = known ? static_cast<u64>(position) * half + pair : 0;
    float cosine = known ? round_as(T(), cosines[at]) : f32_from_bits(0x7fc00000u);
    float sine = round_as(T(), sines[at]) * (inverse ? -1.0f : 1.0f);
    u64 first = head * d + (interleaved ? 2 * pair : pair), second = first + (interleaved ? 1 : half);
    float a = to_f32(x[first]), b = to_f32(x[second]);
    from_f32(y[first], round_as(T(), a * cosine) - round_as(T(), b * sine));
    from_f32(y[second], round_as(T(), b * cosine) + round_as(T(), a * sine));
}

#define ROPE(name, T)                                                                                                            \
    extern "C" __global__ void __launch_bounds__(256)                                                                            \
        name(T* y, const T* x, const u32* positions, const float* cosines, const float* sines, u32 tokens, u32 heads, u32 d,     \
             u32 table_rows, u32 interleaved, u32 inverse) {                                                                     \
        rope(y, x, positions, cosines, sines, tokens, heads, d, table_rows, interleaved, inverse);                               \
    }                                                                                                                            \
    KERNEL(name)

ROPE(rope_f32, float)
ROPE(rope_bf16, bf16)
