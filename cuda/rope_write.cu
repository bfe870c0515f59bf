// rope_write: rotates q [B, S, H, D] into `rotated` and k [B, S, Hkv, D] into `keys`, and copies v into `values`; targets are views. Positions,
// frequencies, pairs and roundings are those of rope.cu, in the inputs' type; then elements are converted to the targets'.
//
// The ladder:
//   rope_write_*  one thread a pair of q, k or v
#include "common/convert.cuh"
#include "common/trigonometry.cuh"

// Any grid of one-dimensional blocks over B · S · (H + 2·Hkv) · D/2 pairs.
template <class T, class O>
__device__ inline void rope_write(O* rotated, O* keys, O* values, const T* q, const T* k, const T* v, const u32* positions, const float* frequencies,
                                  const Elements& rotated_at, const Elements& keys_at, const Elements& values_at, const Elements& q_at,
                                  const Elements& k_at, const Elements& v_at, u32 batch, u32 tokens, u32 heads, u32 kv_heads, u32 d,
                                  u32 interleaved) {
    u32 half = d / 2;
    u64 rows = static_cast<u64>(batch) * tokens, q_pairs = rows * heads * half, k_pairs = rows * kv_heads * half;
    u64 count = q_pairs + 2 * k_pairs, step = static_cast<u64>(gridDim.x) * blockDim.x;
    for (u64 i = static_cast<u64>(blockIdx.x) * blockDim.x + threadIdx.x; i < count; i += step) {
        bool of_q = i < q_pairs, of_k = !of_q && i < q_pairs + k_pairs;
        u64 j = of_q ? i : of_k ? i - q_pairs : i - q_pairs - k_pairs;
        u32 own = of_q ? heads : kv_heads;
        u32 pair = static_cast<u32>(j % half), row = static_cast<u32>(j / half);
        u32 token = row / own, head = row % own, b = token / tokens, t = token % tokens;
        u32 first = interleaved ? 2 * pair : pair, second = first + (interleaved ? 1 : half);
        if (!of_q && !of_k) {
            const T* from = v + v_at.at(b, t, head);
            O* to = values + values_at.at(b, t, head);
            to[first * values_at.element] = convert<O>(from[first * v_at.element]);
            to[second * values_at.element] = convert<O>(from[second * v_at.element]);
            continue;
        }
        const T* from = of_q ? q + q_at.at(b, t, head) : k + k_at.at(b, t, head);
        O* to = of_q ? rotated + rotated_at.at(b, t, head) : keys + keys_at.at(b, t, head);
        u32 from_step = of_q ? q_at.element : k_at.element, to_step = of_q ? rotated_at.element : keys_at.element;
        float x = to_f32(from[first * from_step]), y = to_f32(from[second * from_step]);
        rotate<T>(x, y, positions[token], frequencies[pair], 1.0f);
        from_f32(to[first * to_step], x);
        from_f32(to[second * to_step], y);
    }
}

#define ROPE_WRITE(from, T, to, O)                                                                                                       \
    extern "C" __global__ void __launch_bounds__(256)                                                                                    \
        rope_write_##from##_##to(O* rotated, O* keys, O* values, const T* q, const T* k, const T* v, const u32* positions,               \
                                 const float* frequencies, Elements rotated_at, Elements keys_at, Elements values_at, Elements q_at,     \
                                 Elements k_at, Elements v_at, u32 batch, u32 tokens, u32 heads, u32 kv_heads, u32 d, u32 interleaved) { \
        rope_write(rotated, keys, values, q, k, v, positions, frequencies, rotated_at, keys_at, values_at, q_at, k_at, v_at, batch,      \
                   tokens, heads, kv_heads, d, interleaved);                                                                             \
    }                                                                                                                                    \
    KERNEL(rope_write_##from##_##to)

#define ROPE_WRITE_TO(from, T) ROPE_WRITE(from, T, f32, float) ROPE_WRITE(from, T, bf16, bf16) ROPE_WRITE(from, T, f16, f16)

FOR_FLOATS(ROPE_WRITE_TO)
