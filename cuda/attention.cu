// attention: out = softmax(scale · q·kᵀ + mask) · v and the logarithm of each row's sum; q [B, Sq, Hq, D], k and v [B, Sk, Hkv, D], each with
// strides in elements for batch, token and head and contiguous heads; out contiguous like q, lse f32 [B, Hq, Sq]. Query head h reads key
// head h / (Hq/Hkv). Query i sees the keys up to i + Sk − Sq if `causal`; `mask` u8 [B, Sk], if not null, hides keys where it is 0. A query
// that sees no key gives 0, and −∞ in lse. Sums and probabilities are f32.
//
// The ladder:
//   attention_warp_*  one warp a query and head, one key after the other with the online softmax (Milakov & Gimelshein 2018): the reference on
//                     the device. Keys and values are read once per query.
//   attention_flash_*  tensor cores, bf16, D a multiple of 8 and at most 64, 80 or 128 (Dao 2023). A block takes 64 queries of a head, a warp 16
//                     of them, and goes over the keys 64 at a time: scores and sums stay in registers, and the scores' fragments are, rounded
//                     to bf16, the operand of the product with the values. Values are copied while scores are computed, the next keys
//                     while the values are multiplied.
#include "common/prelude.cuh"
#include "common/reduce.cuh"

struct Strides {
    u64 batch, token, head;
};

// Heads of up to 32 · PER_LANE values; lane l holds the values l, l + 32, …
template <u32 PER_LANE, class T>
__device__ inline void attention_warp(T* out, float* lse, const T* q, const T* k, const T* v, const u8* mask, Strides qs, Strides ks,
                                      Strides vs, u32 sq, u32 sk, u32 hq, u32 hkv, u32 d, float scale, u32 causal) {
    u32 query = blockIdx.x * (blockDim.x / WARP_SIZE) + warp_id(), head = blockIdx.y, batch = blockIdx.z;
    if (query >= sq) return;
    u32 key_head = head / (hq / hkv);
    q += batch * qs.batch + query * qs.token + head * qs.head;
    k += batch * ks.batch + key_head * ks.head;
    v += batch * vs.batch + key_head * vs.head;
    if (mask) mask += static_cast<u64>(batch) * sk;

    float own[PER_LANE], sums[PER_LANE];
#pragma unroll
    for (u32 i = 0; i < PER_LANE; i++) {
        u32 at = i * WARP_SIZE + lane_id();
        own[i] = at < d ? to_f32(q[at]) * scale : 0.0f;
        sums[i] = 0.0f;
    }
    const float NONE = f32_from_bits(0xff800000u);  // −∞
    float largest = NONE, total = 0.0f;
    // The last query sees all keys; the first may see none.
    i64 visible = causal ? static_cast<i64>(query) + 1 + sk - sq : sk;
    for (i64 key = 0; key < visible; key++) {
        if (mask && mask[key] == 0) continue;
        float part = 0.0f;
#pragma unroll
        for (u32 i = 0; i < PER_LANE; i++) {
            u32 at = i * WARP_SIZE + lane_id();
            if (at < d) part += own[i] * to_f32(k[key * ks.token + at]);
        }
        float score = warp_reduce_sum(part);
        float above = fmaxf(largest, score);
        // What was added so far was relative to the old maximum; before the first key there is nothing.
        float shrink = largest == NONE ? 0.0f : expf(largest - above), weight = expf(score - above);
        total = total * shrink + weight;
#pragma unroll
        for (u32 i = 0; i < PER_LANE; i++) {
            u32 at = i * WARP_SIZE + lane_id();
            if (at < d) sums[i] = sums[i] * shrink + weight * to_f32(v[key * vs.token + at]);
        }
        largest = above;
    }
    out += ((static_cast<u64>(batch) * sq + query) * hq + head) * d;
#pragma unroll
    for (u32 i = 0; i < PER_LANE; i++) {
        u32 at = i * WARP_SIZE + lane_id();
        if (at < d) from_f32(out[at], total > 0.0f ? sums[i] / total : 0.0f);
    }
    if (lane_id() == 0) lse[(static_cast<u64>(batch) * hq + head) * sq + query] = total > 0.0f ? largest + logf(total) : NONE;
}

// Grid (⌈Sq/4⌉, Hq, B), block 128; D at most 128.
#define ATTENTION_WARP(name, T)                                                                                                     \
    extern "C" __global__ void __launch_bounds__(128)                                                                               \
        name(T* out, float* lse, const T* q, const T* k, const T* v, const u8* mask, u64 q_batch, u64 q_token, u64 q_head,          \
             u64 k_batch, u64 k_token, u64 k_head, u64 v_batch, u64 v_token, u64 v_head, u32 sq, u32 sk, u32 hq, u32 hkv, u32 d,    \
             float scale, u32 causal) {                                                                                             \
        attention_warp<4>(out, lse, q, k, v, mask, {q_batch, q_token, q_head}, {k_batch, k_token, k_head},                          \
                          {v_batch, v_token, v_head}, sq, sk, hq, hkv, d, scale, causal);                                           \
    }                                                                                                                               \
    KERNEL(name)

ATTENTION_WARP(attention_warp_f32, float)
ATTENTION_WARP(attention_warp_bf16, bf16)

namespace flash {

constexpr u32 TILE = 64;  // queries, and keys
constexpr u32 THREADS = 128;

// Starts copying 64 tokens of a head, zeros beyond the last token and beyond D.
template <u32 D_PADDED>
__device__ inline void load(u32 to, const bf16* from, u64 token_stride, u32 first, u32 tokens, u32 d) {
    constexpr u32 CHUNKS = D_PADDED / 8, PITCH = (D_PADDED + 8) * 2;
#pragma unroll
    for (u32 i = 0; i < TILE * CHUNKS / THREADS; i++) {
        u32 chunk = i * THREADS + threadIdx.x;
        u32 row = chunk / CHUNKS, column = chunk % CHUNKS * 8;
        bool valid = first + row < tokens && column < d;
        cp_async16_or_zero(to + row * PITCH + column * 2, from + (valid ? (first + row) * token_stride + column : 0), valid);
    }
}

// The largest of a row's values, and their sum: a row is spread over the four lanes of a quad.
__device__ inline float quad_max(float v) {
    v = fmaxf(v, shfl_xor(v, 1));
    return fmaxf(v, shfl_xor(v, 2));
}
__device__ inline float quad_sum(float v) {
    v += shfl_xor(v, 1);
    return v + shfl_xor(v, 2);
}

template <u32 D_PADDED>
__device__ inline void attention(bf16* out, float* lse, const bf16* q, const bf16* k, const bf16* v, const u8* mask, Strides qs,
                                 Strides ks, Strides vs, u32 sq, u32 sk, u32 hq, u32 hkv, u32 d, float scale, u32 causal) {
    DYNAMIC_SHARED(shared);
    constexpr u32 PITCH = (D_PADDED + 8) * 2, PARTS = D_PADDED / 16;
    u32 keys = smem_u32(shared), values = keys + TILE * PITCH;
    u32 first_query = blockIdx.x * TILE, head = blockIdx.y, batch = blockIdx.z, lane = lane_id();
    u32 key_head = head / (hq / hkv);
    q += batch * qs.batch + head * qs.head;
    k += batch * ks.batch + key_head * ks.head;
    v += batch * vs.batch + key_head * vs.head;
    if (mask) mask += static_cast<u64>(batch) * sk;

    // Queries come through the memory of the keys and stay in registers: rows 0-15 left, then right half of 16 columns.
    u32 queries[PARTS][4];
    load<D_PADDED>(keys, q, qs.token, first_query, sq, d);
    cp_async_commit();
    cp_async_wait<0>();
    block_sync();
#pragma unroll
    for (u32 part = 0; part < PARTS; part++) {
        ldmatrix_x4(queries[part], keys + (warp_id() * 16 + lane % 16) * PITCH + lane / 16 * 16 + part * 32);
    }
    block_sync();

    const float NONE = f32_from_bits(0xff800000u);  // −∞
    const float LOG2_E = 1.4426950408889634f, LN_2 = 0.6931471805599453f;
    // This lane's two rows of the warp's 16: g and g + 8.
    i64 query[2];
    float largest[2], total[2];
#pragma unroll
    for (u32 r = 0; r < 2; r++) {
        query[r] = first_query + warp_id() * 16 + lane / 4 + r * 8;
        largest[r] = NONE;
        total[r] = 0.0f;
    }
    float sums[PARTS * 2][4] = {};
    // Keys that the block's last query sees.
    i64 visible = causal ? static_cast<i64>(first_query) + TILE + sk - sq : sk;
    u32 end = visible <= 0 ? 0 : static_cast<u32>(visible < sk ? visible : sk);

    if (end > 0) load<D_PADDED>(keys, k, ks.token, 0, sk, d);
    cp_async_commit();
    for (u32 first_key = 0; first_key < end; first_key += TILE) {
        // The keys are there, and nobody reads the values of the step before any more.
        cp_async_wait<0>();
        block_sync();
        load<D_PADDED>(values, v, vs.token, first_key, sk, d);
        cp_async_commit();

        float scores[TILE / 8][4] = {};
#pragma unroll
        for (u32 part = 0; part < PARTS; part++) {
#pragma unroll
            for (u32 j = 0; j < TILE / 16; j++) {
                u32 fragments[4];
                ldmatrix_x4(fragments, keys + (j * 16 + lane / 16 * 8 + lane % 8) * PITCH + lane / 8 % 2 * 16 + part * 32);
                mma_bf16_16816(scores[2 * j], queries[part], fragments[0], fragments[1]);
                mma_bf16_16816(scores[2 * j + 1], queries[part], fragments[2], fragments[3]);
            }
        }

        // In units of log 2, so that the exponential is one instruction.
        float above[2] = {largest[0], largest[1]};
#pragma unroll
        for (u32 j = 0; j < TILE / 8; j++) {
#pragma unroll
            for (u32 i = 0; i < 4; i++) {
                u32 key = first_key + j * 8 + lane % 4 * 2 + i % 2;
                bool seen = key < sk && (!causal || static_cast<i64>(key) <= query[i / 2] + sk - sq);
                if (seen && mask) seen = mask[key] != 0;
                scores[j][i] = seen ? scores[j][i] * (scale * LOG2_E) : NONE;
                above[i / 2] = fmaxf(above[i / 2], scores[j][i]);
            }
        }
        float shrink[2], base[2], added[2] = {};
#pragma unroll
        for (u32 r = 0; r < 2; r++) {
            above[r] = quad_max(above[r]);
            // A row that has seen no key yet: every exponential below must be 0, not that of −∞ + ∞.
            base[r] = above[r] == NONE ? 0.0f : above[r];
            shrink[r] = exp2f(largest[r] - base[r]);
            largest[r] = above[r];
        }
#pragma unroll
        for (u32 j = 0; j < TILE / 8; j++) {
#pragma unroll
            for (u32 i = 0; i < 4; i++) {
                scores[j][i] = exp2f(scores[j][i] - base[i / 2]);
                added[i / 2] += scores[j][i];
            }
        }
#pragma unroll
        for (u32 r = 0; r < 2; r++) total[r] = total[r] * shrink[r] + quad_sum(added[r]);
#pragma unroll
        for (u32 part = 0; part < PARTS * 2; part++) {
#pragma unroll
            for (u32 i = 0; i < 4; i++) sums[part][i] *= shrink[i / 2];
        }

        // The values are there, and nobody reads the keys any more.
        cp_async_wait<0>();
        block_sync();
        if (first_key + TILE < end) load<D_PADDED>(keys, k, ks.token, first_key + TILE, sk, d);
        cp_async_commit();
#pragma unroll
        for (u32 j = 0; j < TILE / 16; j++) {
            // Sums of two 16×8 products side by side are the left operand of the next: the fragments' layouts agree.
            u32 weights[4];
#pragma unroll
            for (u32 i = 0; i < 4; i++) weights[i] = pack_bf16x2(scores[2 * j + i / 2][i % 2 * 2], scores[2 * j + i / 2][i % 2 * 2 + 1]);
#pragma unroll
            for (u32 part = 0; part < PARTS; part++) {
                u32 fragments[4];
                ldmatrix_x4_trans(fragments, values + (j * 16 + lane % 16) * PITCH + lane / 16 * 16 + part * 32);
                mma_bf16_16816(sums[2 * part], weights, fragments[0], fragments[1]);
                mma_bf16_16816(sums[2 * part + 1], weights, fragments[2], fragments[3]);
            }
        }
    }

#pragma unroll
    for (u32 r = 0; r < 2; r++) {
        if (query[r] >= sq) continue;
        u64 row = (static_cast<u64>(batch) * sq + query[r]) * hq + head;
        float factor = total[r] > 0.0f ? 1.0f / total[r] : 0.0f;
#pragma unroll
        for (u32 part = 0; part < PARTS * 2; part++) {
            u32 column = part * 8 + lane % 4 * 2;
            // D is even: a pair lies inside or outside.
            if (column < d) {
                u32 pair = pack_bf16x2(sums[part][2 * r] * factor, sums[part][2 * r + 1] * factor);
                *reinterpret_cast<u32*>(out + row * d + column) = pair;
            }
        }
        if (lane % 4 == 0) {
            lse[(static_cast<u64>(batch) * hq + head) * sq + query[r]] = total[r] > 0.0f ? (largest[r] + log2f(total[r])) * LN_2 : NONE;
        }
    }
}

}  // namespace flash

// Grid (⌈Sq/64⌉, Hq, B), block 128, 256 · (D_PADDED + 8) bytes of shared memory; rows of q, k and v 16-byte aligned.
#define ATTENTION_FLASH(D_PADDED)                                                                                                   \
    extern "C" __global__ void __launch_bounds__(flash::THREADS) attention_flash_##D_PADDED(                                        \
        bf16* out, float* lse, const bf16* q, const bf16* k, const bf16* v, const u8* mask, u64 q_batch, u64 q_token, u64 q_head,   \
        u64 k_batch, u64 k_token, u64 k_head, u64 v_batch, u64 v_token, u64 v_head, u32 sq, u32 sk, u32 hq, u32 hkv, u32 d,         \
        float scale, u32 causal) {                                                                                                  \
        flash::attention<D_PADDED>(out, lse, q, k, v, mask, {q_batch, q_token, q_head}, {k_batch, k_token, k_head},                 \
                                   {v_batch, v_token, v_head}, sq, sk, hq, hkv, d, scale, causal);                                  \
    }                                                                                                                               \
    KERNEL(attention_flash_##D_PADDED)

ATTENTION_FLASH(64)
ATTENTION_FLASH(80)
ATTENTION_FLASH(128)
