// attention: out = softmax(scale · q·kᵀ + mask) · v and the logarithm of each row's sum; q [B, Sq, Hq, D], k and v [B, Sk, Hkv, D], with strides for
// batch, token and head and contiguous heads; out contiguous like q, lse f32 [B, Hq, Sq]. Query head h reads key head h / (Hq/Hkv). Query i sees the keys up
// to i + Sk − Sq if `causal`; `mask` u8 [B, Sk], if not null, hides keys where it is 0. A query that sees no key gives 0, and −∞ in lse. Sums and
// probabilities are f32.
//
// The ladder:
//   attention_warp_*    one warp a query and head, one key after the other with the online softmax (Milakov & Gimelshein 2018): the reference on the
//                       device, for any D. Keys and values are read once per query
//   attention_decode_*  few queries: the keys are split over blocks, and over groups of lanes in a block that hold a head 16 bytes a lane;
//                       attention_merge_* joins the splits (Dao et al. 2023, flash-decoding). D a multiple of 8, at most 256
//   attention_flash_*   tensor cores, bf16, D a multiple of 8 and at most 64, 80 or 128 (Dao 2023). A block takes 64 queries of a head, a warp 16 of
//                       them, and goes over the keys 64 at a time: scores and sums stay in registers, and the scores' fragments are, rounded
//                       to bf16, the operand of the product with the values. Values are copied while scores are computed, the next keys while the
//                       values are multiplied
#include "common/flash.cuh"
#include "common/reduce.cuh"

// Lane l holds the values l, l + 32, … in shared memory: no other lane looks at them.
template <class T>
__device__ inline void attention_warp(T* out, float* lse, const T* q, const T* k, const T* v, Sight sight, const Heads& qs, const Heads& ks,
                                      const Heads& vs, u32 hq, u32 hkv, u32 d, float scale) {
    DYNAMIC_SHARED(shared);
    u32 query = blockIdx.x * (blockDim.x / WARP_SIZE) + warp_id(), head = blockIdx.y, batch = blockIdx.z;
    if (query >= sight.sq) return;
    u32 key_head = head / (hq / hkv);
    q += qs.at(batch, query, head);
    k += ks.at(batch, 0, key_head);
    v += vs.at(batch, 0, key_head);
    if (sight.mask) sight.mask += static_cast<u64>(batch) * sight.sk;
    float *own = reinterpret_cast<float*>(shared) + warp_id() * 2 * d, *sums = own + d;
    for (u32 i = lane_id(); i < d; i += WARP_SIZE) {
        own[i] = to_f32(q[i]) * scale;
        sums[i] = 0.0f;
    }
    float largest = -infinity(), total = 0.0f;
    // The last query sees all keys; the first may see none.
    u32 end = sight.end(query);
    for (u32 key = 0; key < end; key++) {
        if (!sight.sees(query, key)) continue;
        const T *key_values = k + static_cast<u64>(key) * ks.token, *values = v + static_cast<u64>(key) * vs.token;
        float part = 0.0f;
        for (u32 i = lane_id(); i < d; i += WARP_SIZE) part += own[i] * to_f32(key_values[i]);
        float score = warp_reduce_sum(part), above = fmaxf(largest, score);
        // What was added so far was relative to the old maximum; before the first key there is nothing.
        float shrink = largest == -infinity() ? 0.0f : expf(largest - above), weight = expf(score - above);
        total = total * shrink + weight;
        for (u32 i = lane_id(); i < d; i += WARP_SIZE) sums[i] = sums[i] * shrink + weight * to_f32(values[i]);
        largest = above;
    }
    out += ((static_cast<u64>(batch) * sight.sq + query) * hq + head) * d;
    bool seen = largest != -infinity();
    for (u32 i = lane_id(); i < d; i += WARP_SIZE) from_f32(out[i], seen ? sums[i] / total : 0.0f);
    if (lane_id() == 0) lse[(static_cast<u64>(batch) * hq + head) * sight.sq + query] = seen ? largest + logf(total) : -infinity();
}

// Grid (⌈Sq/4⌉, Hq, B), block 128, 32 · D bytes of shared memory.
#define ATTENTION_WARP(suffix, T)                                                                                                         \
    extern "C" __global__ void __launch_bounds__(128)                                                                                     \
        attention_warp_##suffix(T* out, float* lse, const T* q, const T* k, const T* v, const u8* mask, Heads qs, Heads ks, Heads vs,     \
                                u32 sq, u32 sk, u32 hq, u32 hkv, u32 d, u32 causal, float scale) {                                        \
        attention_warp(out, lse, q, k, v, Sight{mask, sq, sk, causal}, qs, ks, vs, hq, hkv, d, scale);                                    \
    }                                                                                                                                     \
    KERNEL(attention_warp_##suffix)

FOR_FLOATS(ATTENTION_WARP)

// Keys that a group of lanes looks at between two looks at the maximum: their loads are under way together.
constexpr u32 AT_ONCE = 4;

// Parts are sums relative to the maximum in `stats`, whose logarithms are of base 2.
template <class T>
__device__ inline void attention_decode(float* parts, float* stats, const T* q, const T* k, const T* v, Sight sight, const Heads& qs, const Heads& ks,
                                        const Heads& vs, u32 hq, u32 hkv, u32 d, u32 splits, float scale) {
    DYNAMIC_SHARED(shared);
    u32 split = blockIdx.x, head = blockIdx.y, batch = blockIdx.z / sight.sq, query = blockIdx.z % sight.sq;
    u32 key_head = head / (hq / hkv);
    q += qs.at(batch, query, head);
    k += ks.at(batch, 0, key_head);
    v += vs.at(batch, 0, key_head);
    if (sight.mask) sight.mask += static_cast<u64>(batch) * sight.sk;
    // Lanes that hold a head, eight values each.
    u32 width = d <= 64 ? 8 : d <= 128 ? 16 : 32, column = lane_id() % width * 8;
    bool inside = column < d;
    u32 groups = blockDim.x / width, group = threadIdx.x / width;
    float own[8], sums[8] = {};
#pragma unroll
    for (u32 i = 0; i < 8; i++) own[i] = 0.0f;
    if (inside) load_values(own, q + column);
#pragma unroll
    for (u32 i = 0; i < 8; i++) own[i] *= scale * flash::LOG2_E;

    u32 share = ceil_div(sight.sk, splits), begin = split * share, end = min_u32(begin + share, sight.end(query));
    float largest = -infinity(), total = 0.0f;
    // All groups take as many steps: their lanes meet in the exchanges.
    for (u32 first = begin; first < end; first += groups * AT_ONCE) {
        float scores[AT_ONCE], above = largest;
#pragma unroll
        for (u32 j = 0; j < AT_ONCE; j++) {
            u32 key = first + j * groups + group;
            float part = 0.0f;
            if (key < end && inside) {
                float values[8];
                load_values(values, k + static_cast<u64>(key) * ks.token + column);
#pragma unroll
                for (u32 i = 0; i < 8; i++) part += own[i] * values[i];
            }
            scores[j] = part;
        }
#pragma unroll
        for (u32 j = 0; j < AT_ONCE; j++) {
            for (u32 mask = width / 2; mask > 0; mask /= 2) scores[j] += shfl_xor(scores[j], mask);
            u32 key = first + j * groups + group;
            if (key >= end || !sight.sees(query, key)) scores[j] = -infinity();
            above = fmaxf(above, scores[j]);
        }
        // A group that has seen no key yet: every exponential must be 0, not that of −∞ + ∞.
        float base = above == -infinity() ? 0.0f : above, shrink = exp2_fast(largest - base);
        largest = above;
        total *= shrink;
#pragma unroll
        for (u32 i = 0; i < 8; i++) sums[i] *= shrink;
#pragma unroll
        for (u32 j = 0; j < AT_ONCE; j++) {
            float weight = exp2_fast(scores[j] - base);
            total += weight;
            u32 key = first + j * groups + group;
            if (key < end && inside) {
                float values[8];
                load_values(values, v + static_cast<u64>(key) * vs.token + column);
#pragma unroll
                // What a mask hides may hold anything.
                for (u32 i = 0; i < 8; i++) sums[i] += weight > 0.0f ? weight * values[i] : 0.0f;
            }
        }
    }
    // The groups of a warp, then the warps.
    for (u32 mask = width; mask < WARP_SIZE; mask *= 2) {
        float other = shfl_xor(largest, mask), above = fmaxf(largest, other);
        float base = above == -infinity() ? 0.0f : above, shrink = exp2f(largest - base);
        largest = above;
        total *= shrink;
        total += shfl_xor(total, mask);
#pragma unroll
        for (u32 i = 0; i < 8; i++) {
            sums[i] *= shrink;
            sums[i] += shfl_xor(sums[i], mask);
        }
    }
    float *warp_sums = reinterpret_cast<float*>(shared), *warp_stats = warp_sums + 4 * d;
    if (lane_id() < width && inside) {
#pragma unroll
        for (u32 i = 0; i < 8; i++) warp_sums[warp_id() * d + column + i] = sums[i];
    }
    if (lane_id() == 0) {
        warp_stats[2 * warp_id()] = largest;
        warp_stats[2 * warp_id() + 1] = total;
    }
    block_sync();
    float all = fmaxf(fmaxf(warp_stats[0], warp_stats[2]), fmaxf(warp_stats[4], warp_stats[6])), base = all == -infinity() ? 0.0f : all;
    u64 row = (static_cast<u64>(batch) * sight.sq + query) * hq + head;
    parts += (row * splits + split) * d;
    for (u32 i = threadIdx.x; i < d; i += blockDim.x) {
        float sum = 0.0f;
        for (u32 warp = 0; warp < 4; warp++) sum += warp_sums[warp * d + i] * exp2f(warp_stats[2 * warp] - base);
        parts[i] = sum;
    }
    if (threadIdx.x == 0) {
        float sum = 0.0f;
        for (u32 warp = 0; warp < 4; warp++) sum += warp_stats[2 * warp + 1] * exp2f(warp_stats[2 * warp] - base);
        stats[2 * (row * splits + split)] = all;
        stats[2 * (row * splits + split) + 1] = sum;
    }
}

// One warp a row.
template <class T>
__device__ inline void attention_merge(T* out, float* lse, const float* parts, const float* stats, u32 batch, u32 sq, u32 hq, u32 d, u32 splits) {
    u32 row = blockIdx.x * (blockDim.x / WARP_SIZE) + warp_id();
    if (row >= batch * sq * hq) return;
    parts += static_cast<u64>(row) * splits * d;
    stats += static_cast<u64>(row) * splits * 2;
    float all = -infinity();
    for (u32 split = 0; split < splits; split++) all = fmaxf(all, stats[2 * split]);
    float base = all == -infinity() ? 0.0f : all, total = 0.0f;
    for (u32 split = 0; split < splits; split++) total += stats[2 * split + 1] * exp2f(stats[2 * split] - base);
    float factor = all == -infinity() ? 0.0f : 1.0f / total;
    for (u32 i = lane_id(); i < d; i += WARP_SIZE) {
        float sum = 0.0f;
        for (u32 split = 0; split < splits; split++) sum += parts[static_cast<u64>(split) * d + i] * exp2f(stats[2 * split] - base);
        from_f32(out[static_cast<u64>(row) * d + i], sum * factor);
    }
    u32 head = row % hq, query = row / hq % sq, sample = row / hq / sq;
    if (lane_id() == 0) {
        lse[(static_cast<u64>(sample) * hq + head) * sq + query] = all == -infinity() ? all : (all + log2f(total)) * flash::LN_2;
    }
}

// Grid (splits, Hq, B · Sq), block 128, 4 · (4 · D + 8) bytes of shared memory; then ⌈B · Sq · Hq / 4⌉, block 128.
#define ATTENTION_DECODE(suffix, T)                                                                                                            \
    extern "C" __global__ void __launch_bounds__(128)                                                                                          \
        attention_decode_##suffix(float* parts, float* stats, const T* q, const T* k, const T* v, const u8* mask, Heads qs, Heads ks, Heads vs, \
                                  u32 sq, u32 sk, u32 hq, u32 hkv, u32 d, u32 causal, u32 splits, float scale) {                               \
        attention_decode(parts, stats, q, k, v, Sight{mask, sq, sk, causal}, qs, ks, vs, hq, hkv, d, splits, scale);                           \
    }                                                                                                                                          \
    KERNEL(attention_decode_##suffix)                                                                                                          \
    extern "C" __global__ void __launch_bounds__(128)                                                                                          \
        attention_merge_##suffix(T* out, float* lse, const float* parts, const float* stats, u32 batch, u32 sq, u32 hq, u32 d, u32 splits) {   \
        attention_merge(out, lse, parts, stats, batch, sq, hq, d, splits);                                                                     \
    }                                                                                                                                          \
    KERNEL(attention_merge_##suffix)

FOR_FLOATS(ATTENTION_DECODE)

template <u32 D_PADDED>
__device__ inline void attention_flash(bf16* out, float* lse, const bf16* q, const bf16* k, const bf16* v, Sight sight, const Heads& qs,
                                       const Heads& ks, const Heads& vs, u32 hq, u32 hkv, u32 d, float scale) {
    DYNAMIC_SHARED(shared);
    constexpr u32 TILE = 64, PARTS = D_PADDED / 16;
    u32 keys = smem_u32(shared), values = keys + TILE * flash::pitch<D_PADDED>();
    u32 first_query = blockIdx.x * TILE, head = blockIdx.y, batch = blockIdx.z, lane = lane_id();
    u32 key_head = head / (hq / hkv), sq = sight.sq, sk = sight.sk;
    q += qs.at(batch, 0, head);
    k += ks.at(batch, 0, key_head);
    v += vs.at(batch, 0, key_head);
    if (sight.mask) sight.mask += static_cast<u64>(batch) * sk;

    // Queries come through the memory of the keys and stay in registers.
    u32 queries[PARTS][4];
    flash::load<D_PADDED, TILE>(keys, q, qs.token, first_query, sq, d);
    cp_async_commit();
    cp_async_wait<0>();
    block_sync();
#pragma unroll
    for (u32 part = 0; part < PARTS; part++) flash::left<D_PADDED>(queries[part], keys, warp_id() * 16, part * 16);
    block_sync();

    // This lane's two rows of the warp's 16: g and g + 8.
    u32 query[2], ends[2];
    float largest[2], total[2];
#pragma unroll
    for (u32 r = 0; r < 2; r++) {
        query[r] = first_query + warp_id() * 16 + lane / 4 + r * 8;
        ends[r] = sight.end(query[r]);
        largest[r] = -infinity();
        total[r] = 0.0f;
    }
    float sums[PARTS * 2][4] = {};
    // What a score is times, and one that gives −∞ then.
    float factor = scale * flash::LOG2_E, none = factor < 0.0f ? infinity() : -infinity();
    // Keys that the block's last query sees.
    u32 end = sight.end(first_query + TILE - 1);

    if (end > 0) flash::load<D_PADDED, TILE>(keys, k, ks.token, 0, sk, d);
    cp_async_commit();
    for (u32 first_key = 0; first_key < end; first_key += TILE) {
        // The keys are there, and nobody reads the values of the step before any more.
        cp_async_wait<0>();
        block_sync();
        flash::load<D_PADDED, TILE>(values, v, vs.token, first_key, sk, d);
        cp_async_commit();

        float scores[TILE / 8][4] = {};
#pragma unroll
        for (u32 part = 0; part < PARTS; part++) {
#pragma unroll
            for (u32 j = 0; j < TILE / 16; j++) {
                u32 fragments[4];
                flash::right<D_PADDED>(fragments, keys, j * 16, part * 16);
                mma_bf16_16816(scores[2 * j], queries[part], fragments[0], fragments[1]);
                mma_bf16_16816(scores[2 * j + 1], queries[part], fragments[2], fragments[3]);
            }
        }

        if (!sight.all(first_query, first_key, TILE)) flash::blank<TILE>(scores, sight, ends, first_key, none);
        // In units of log 2, so that the exponential is one instruction.
        float above[2] = {largest[0], largest[1]};
#pragma unroll
        for (u32 j = 0; j < TILE / 8; j++) {
#pragma unroll
            for (u32 i = 0; i < 4; i++) {
                scores[j][i] *= factor;
                above[i / 2] = fmaxf(above[i / 2], scores[j][i]);
            }
        }
        float shrink[2], base[2], added[2] = {};
#pragma unroll
        for (u32 r = 0; r < 2; r++) {
            above[r] = flash::quad_max(above[r]);
            // A row that has seen no key yet: every exponential below must be 0, not that of −∞ + ∞.
            base[r] = above[r] == -infinity() ? 0.0f : above[r];
            shrink[r] = exp2_fast(largest[r] - base[r]);
            largest[r] = above[r];
        }
#pragma unroll
        for (u32 j = 0; j < TILE / 8; j++) {
#pragma unroll
            for (u32 i = 0; i < 4; i++) {
                scores[j][i] = exp2_fast(scores[j][i] - base[i / 2]);
                added[i / 2] += scores[j][i];
            }
        }
#pragma unroll
        for (u32 r = 0; r < 2; r++) total[r] = total[r] * shrink[r] + flash::quad_sum(added[r]);
#pragma unroll
        for (u32 part = 0; part < PARTS * 2; part++) {
#pragma unroll
            for (u32 i = 0; i < 4; i++) sums[part][i] *= shrink[i / 2];
        }

        // The values are there, and nobody reads the keys any more.
        cp_async_wait<0>();
        block_sync();
        if (first_key + TILE < end) flash::load<D_PADDED, TILE>(keys, k, ks.token, first_key + TILE, sk, d);
        cp_async_commit();
#pragma unroll
        for (u32 j = 0; j < TILE / 16; j++) {
            u32 weights[4];
            flash::as_left(weights, scores[2 * j], scores[2 * j + 1]);
#pragma unroll
            for (u32 part = 0; part < PARTS; part++) {
                u32 fragments[4];
                flash::right_inner<D_PADDED>(fragments, values, j * 16, part * 16);
                mma_bf16_16816(sums[2 * part], weights, fragments[0], fragments[1]);
                mma_bf16_16816(sums[2 * part + 1], weights, fragments[2], fragments[3]);
            }
        }
    }

#pragma unroll
    for (u32 r = 0; r < 2; r++) {
        if (query[r] >= sq) continue;
        u64 row = (static_cast<u64>(batch) * sq + query[r]) * hq + head;
        bool seen = largest[r] != -infinity();
        float share = seen ? 1.0f / total[r] : 0.0f;
#pragma unroll
        for (u32 part = 0; part < PARTS * 2; part++) {
            u32 column = part * 8 + lane % 4 * 2;
            // D is even: a pair lies inside or outside.
            if (column < d) {
                u32 pair = pack_bf16x2(sums[part][2 * r] * share, sums[part][2 * r + 1] * share);
                *reinterpret_cast<u32*>(out + row * d + column) = pair;
            }
        }
        if (lane % 4 == 0) {
            lse[(static_cast<u64>(batch) * hq + head) * sq + query[r]] = seen ? (largest[r] + log2f(total[r])) * flash::LN_2 : -infinity();
        }
    }
}

// Grid (⌈Sq/64⌉, Hq, B), block 128, 256 · (D_PADDED + 8) bytes of shared memory; rows of q, k and v 16-byte aligned.
#define ATTENTION_FLASH(D_PADDED)                                                                                                        \
    extern "C" __global__ void __launch_bounds__(flash::THREADS)                                                                         \
        attention_flash_##D_PADDED(bf16* out, float* lse, const bf16* q, const bf16* k, const bf16* v, const u8* mask, Heads qs, Heads ks, \
                                   Heads vs, u32 sq, u32 sk, u32 hq, u32 hkv, u32 d, u32 causal, float scale) {                          \
        attention_flash<D_PADDED>(out, lse, q, k, v, Sight{mask, sq, sk, causal}, qs, ks, vs, hq, hkv, d, scale);                        \
    }                                                                                                                                    \
    KERNEL(attention_flash_##D_PADDED)

ATTENTION_FLASH(64)
ATTENTION_FLASH(80)
ATTENTION_FLASH(128)
