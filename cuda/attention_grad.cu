// attention_grad: with P = exp(scale · q·kᵀ − lse), computed again, delta = rowsum(g ∘ out) and dS = P ∘ (g·vᵀ − delta): dq = scale · dS·k,
// dk = scale · dSᵀ·q, dv = Pᵀ·g, the last two summed over the query heads that share a key head. Shapes as in attention. Each sum is of one block in one
// order: no atomics, the same bits every time, at the price of computing P twice.
//
// The ladder:
//   attention_grad_delta_*       delta, a warp a query and head
//   attention_grad_q_*, _kv_*    a warp a query, or a key: the reference on the device, for any D
//   attention_flash_grad_q_*     tensor cores, bf16, D as in attention_flash (Dao 2023). A block keeps q and g of 64 queries in shared memory and goes over
//                                the keys 32 at a time; k and v of the next step are copied while this one is computed
//   attention_flash_grad_kv_*    the same with the roles exchanged: k and v of 64 keys stay, q and g go by, of all heads that share the keys. Scores
//                                are computed transposed, so that P and dS are left operands as they come out of the tensor cores
#include "common/flash.cuh"
#include "common/reduce.cuh"

// Grid ⌈B · Sq · Hq / 4⌉, block 128.
#define ATTENTION_GRAD_DELTA(suffix, T)                                                                                            \
    extern "C" __global__ void __launch_bounds__(128)                                                                              \
        attention_grad_delta_##suffix(float* delta, const T* out, const T* g, Heads outs, Heads gs, u32 batch, u32 sq, u32 hq, u32 d) { \
        u32 row = blockIdx.x * (blockDim.x / WARP_SIZE) + warp_id();                                                               \
        if (row >= batch * sq * hq) return;                                                                                        \
        u32 head = row % hq, query = row / hq % sq, sample = row / hq / sq;                                                        \
        out += outs.at(sample, query, head);                                                                                       \
        g += gs.at(sample, query, head);                                                                                           \
        float sum = 0.0f;                                                                                                          \
        for (u32 i = lane_id(); i < d; i += WARP_SIZE) sum += to_f32(out[i]) * to_f32(g[i]);                                       \
        sum = warp_reduce_sum(sum);                                                                                                \
        if (lane_id() == 0) delta[(static_cast<u64>(sample) * hq + head) * sq + query] = sum;                                      \
    }                                                                                                                              \
    KERNEL(attention_grad_delta_##suffix)

FOR_FLOATS(ATTENTION_GRAD_DELTA)

// What both gradients read.
template <class T>
struct Inputs {
    const T *q, *k, *v, *g;
    const float *lse, *delta;
    Heads qs, ks, vs, gs;
    Sight sight;
    u32 hq, hkv, d;
    float scale;
};

// Grid (⌈Sq/4⌉, Hq, B), block 128, 48 · D bytes of shared memory, of which each lane looks at its own places alone.
template <class T>
__device__ inline void attention_grad_q(T* dq, Inputs<T> in) {
    DYNAMIC_SHARED(shared);
    u32 query = blockIdx.x * (blockDim.x / WARP_SIZE) + warp_id(), head = blockIdx.y, batch = blockIdx.z, d = in.d;
    Sight sight = in.sight;
    if (query >= sight.sq) return;
    u32 key_head = head / (in.hq / in.hkv);
    const T *q = in.q + in.qs.at(batch, query, head), *g = in.g + in.gs.at(batch, query, head);
    if (sight.mask) sight.mask += static_cast<u64>(batch) * sight.sk;
    float *own = reinterpret_cast<float*>(shared) + warp_id() * 3 * d, *up = own + d, *sums = up + d;
    for (u32 i = lane_id(); i < d; i += WARP_SIZE) {
        own[i] = to_f32(q[i]);
        up[i] = to_f32(g[i]);
        sums[i] = 0.0f;
    }
    u64 row = (static_cast<u64>(batch) * in.hq + head) * sight.sq + query;
    float lse = in.lse[row], delta = in.delta[row];
    u32 end = sight.end(query);
    for (u32 key = 0; key < end; key++) {
        if (!sight.sees(query, key)) continue;
        const T *k = in.k + in.ks.at(batch, key, key_head), *v = in.v + in.vs.at(batch, key, key_head);
        float score = 0.0f, slope = 0.0f;
        for (u32 i = lane_id(); i < d; i += WARP_SIZE) {
            score += own[i] * to_f32(k[i]);
            slope += up[i] * to_f32(v[i]);
        }
        score = warp_reduce_sum(score);
        slope = warp_reduce_sum(slope);
        float ds = expf(score * in.scale - lse) * (slope - delta);
        for (u32 i = lane_id(); i < d; i += WARP_SIZE) sums[i] += ds * to_f32(k[i]);
    }
    dq += ((static_cast<u64>(batch) * sight.sq + query) * in.hq + head) * d;
    for (u32 i = lane_id(); i < d; i += WARP_SIZE) from_f32(dq[i], sums[i] * in.scale);
}

// Grid (⌈Sk/4⌉, Hkv, B), block 128, 64 · D bytes of shared memory.
template <class T>
__device__ inline void attention_grad_kv(T* dk, T* dv, Inputs<T> in) {
    DYNAMIC_SHARED(shared);
    u32 key = blockIdx.x * (blockDim.x / WARP_SIZE) + warp_id(), key_head = blockIdx.y, batch = blockIdx.z, d = in.d;
    Sight sight = in.sight;
    if (key >= sight.sk) return;
    const T *k = in.k + in.ks.at(batch, key, key_head), *v = in.v + in.vs.at(batch, key, key_head);
    if (sight.mask) sight.mask += static_cast<u64>(batch) * sight.sk;
    float *own_k = reinterpret_cast<float*>(shared) + warp_id() * 4 * d, *own_v = own_k + d, *k_sums = own_v + d, *v_sums = k_sums + d;
    for (u32 i = lane_id(); i < d; i += WARP_SIZE) {
        own_k[i] = to_f32(k[i]);
        own_v[i] = to_f32(v[i]);
        k_sums[i] = v_sums[i] = 0.0f;
    }
    u32 group = in.hq / in.hkv;
    for (u32 head = key_head * group; head < (key_head + 1) * group; head++) {
        for (u32 query = sight.begin(key); query < sight.sq; query++) {
            if (!sight.sees(query, key)) continue;
            const T *q = in.q + in.qs.at(batch, query, head), *g = in.g + in.gs.at(batch, query, head);
            u64 row = (static_cast<u64>(batch) * in.hq + head) * sight.sq + query;
            float score = 0.0f, slope = 0.0f;
            for (u32 i = lane_id(); i < d; i += WARP_SIZE) {
                score += own_k[i] * to_f32(q[i]);
                slope += own_v[i] * to_f32(g[i]);
            }
            score = warp_reduce_sum(score);
            slope = warp_reduce_sum(slope);
            float p = expf(score * in.scale - in.lse[row]), ds = p * (slope - in.delta[row]);
            for (u32 i = lane_id(); i < d; i += WARP_SIZE) {
                k_sums[i] += ds * to_f32(q[i]);
                v_sums[i] += p * to_f32(g[i]);
            }
        }
    }
    u64 at = ((static_cast<u64>(batch) * sight.sk + key) * in.hkv + key_head) * d;
    for (u32 i = lane_id(); i < d; i += WARP_SIZE) {
        from_f32(dk[at + i], k_sums[i] * in.scale);
        from_f32(dv[at + i], v_sums[i]);
    }
}

#define GRAD_PARAMETERS(T)                                                                                                                       \
    const T *q, const T *k, const T *v, const T *g, const u8 *mask, const float *lse, const float *delta, Heads qs, Heads ks, Heads vs, Heads gs, \
        u32 sq, u32 sk, u32 hq, u32 hkv, u32 d, u32 causal, float scale
#define GRAD_INPUTS(T) \
    Inputs<T> { q, k, v, g, lse, delta, qs, ks, vs, gs, Sight{mask, sq, sk, causal}, hq, hkv, d, scale }

#define ATTENTION_GRAD(suffix, T)                                                                                             \
    extern "C" __global__ void __launch_bounds__(128) attention_grad_q_##suffix(T* dq, GRAD_PARAMETERS(T)) {                  \
        attention_grad_q(dq, GRAD_INPUTS(T));                                                                                 \
    }                                                                                                                         \
    KERNEL(attention_grad_q_##suffix)                                                                                         \
    extern "C" __global__ void __launch_bounds__(128) attention_grad_kv_##suffix(T* dk, T* dv, GRAD_PARAMETERS(T)) {          \
        attention_grad_kv(dk, dv, GRAD_INPUTS(T));                                                                            \
    }                                                                                                                         \
    KERNEL(attention_grad_kv_##suffix)

FOR_FLOATS(ATTENTION_GRAD)

namespace flash {

constexpr u32 OWN = 64, STEP = 32;  // tokens that stay, and that go by at a time

// Sums of a warp's 16 tokens times D.
template <u32 D_PADDED>
struct HeadSums {
    float values[D_PADDED / 8][4] = {};

    // Adds weights [16 tokens, STEP] · tile [STEP tokens, D].
    __device__ void add(const float (&weights)[STEP / 8][4], u32 tile) {
#pragma unroll
        for (u32 j = 0; j < STEP / 16; j++) {
            u32 a[4];
            as_left(a, weights[2 * j], weights[2 * j + 1]);
#pragma unroll
            for (u32 part = 0; part < D_PADDED / 16; part++) {
                u32 b[4];
                right_inner<D_PADDED>(b, tile, j * 16, part * 16);
                mma_bf16_16816(values[2 * part], a, b[0], b[1]);
                mma_bf16_16816(values[2 * part + 1], a, b[2], b[3]);
            }
        }
    }
    // Rounds the sums times `scale` into rows of D, `stride` apart; `row` is this warp's first of `rows`.
    __device__ void store(bf16* to, u32 row, u32 rows, u64 stride, u32 d, float scale) const {
        u32 lane = lane_id();
#pragma unroll
        for (u32 r = 0; r < 2; r++) {
            u32 at = row + lane / 4 + r * 8;
            if (at >= rows) continue;
#pragma unroll
            for (u32 part = 0; part < D_PADDED / 8; part++) {
                u32 column = part * 8 + lane % 4 * 2;
                // D is even: a pair lies inside or outside.
                if (column < d) {
                    *reinterpret_cast<u32*>(to + at * stride + column) = pack_bf16x2(values[part][2 * r] * scale, values[part][2 * r + 1] * scale);
                }
            }
        }
    }
};

// Products of a warp's 16 tokens of `own` with the STEP tokens of `other`, over D.
template <u32 D_PADDED>
__device__ inline void products(float (&to)[STEP / 8][4], u32 own, u32 other) {
#pragma unroll
    for (u32 part = 0; part < D_PADDED / 16; part++) {
        u32 a[4];
        left<D_PADDED>(a, own, warp_id() * 16, part * 16);
#pragma unroll
        for (u32 j = 0; j < STEP / 16; j++) {
            u32 b[4];
            right<D_PADDED>(b, other, j * 16, part * 16);
            mma_bf16_16816(to[2 * j], a, b[0], b[1]);
            mma_bf16_16816(to[2 * j + 1], a, b[2], b[3]);
        }
    }
}

// Grid (⌈Sq/64⌉, Hq, B), block 128, 512 · (D_PADDED + 8) bytes of shared memory: q, g, and two steps of k, v.
template <u32 D_PADDED>
__device__ inline void grad_q(bf16* dq, Inputs<bf16> in) {
    DYNAMIC_SHARED(shared);
    constexpr u32 PITCH = pitch<D_PADDED>();
    u32 q_tile = smem_u32(shared), g_tile = q_tile + OWN * PITCH, stages = g_tile + OWN * PITCH;
    u32 first_query = blockIdx.x * OWN, head = blockIdx.y, batch = blockIdx.z, lane = lane_id();
    u32 key_head = head / (in.hq / in.hkv);
    Sight sight = in.sight;
    if (sight.mask) sight.mask += static_cast<u64>(batch) * sight.sk;
    const bf16 *k = in.k + in.ks.at(batch, 0, key_head), *v = in.v + in.vs.at(batch, 0, key_head);
    u32 end = sight.end(first_query + OWN - 1);
    auto fetch = [&](u32 first_key) {
        if (first_key < end) {
            u32 stage = stages + first_key / STEP % 2 * 2 * STEP * PITCH;
            load<D_PADDED, STEP>(stage, k, in.ks.token, first_key, sight.sk, in.d);
            load<D_PADDED, STEP>(stage + STEP * PITCH, v, in.vs.token, first_key, sight.sk, in.d);
        }
        cp_async_commit();
    };
    load<D_PADDED, OWN>(q_tile, in.q + in.qs.at(batch, 0, head), in.qs.token, first_query, sight.sq, in.d);
    load<D_PADDED, OWN>(g_tile, in.g + in.gs.at(batch, 0, head), in.gs.token, first_query, sight.sq, in.d);
    fetch(0);

    // This lane's two rows of the warp's 16.
    u32 query[2], ends[2];
    float lse[2], delta[2];
#pragma unroll
    for (u32 r = 0; r < 2; r++) {
        query[r] = first_query + warp_id() * 16 + lane / 4 + r * 8;
        ends[r] = sight.end(query[r]);
        u64 row = (static_cast<u64>(batch) * in.hq + head) * sight.sq + query[r];
        lse[r] = query[r] < sight.sq ? in.lse[row] * LOG2_E : 0.0f;
        delta[r] = query[r] < sight.sq ? in.delta[row] : 0.0f;
    }
    HeadSums<D_PADDED> sums;
    for (u32 first_key = 0; first_key < end; first_key += STEP) {
        cp_async_wait<0>();
        block_sync();
        // The other stage was read before the barrier.
        fetch(first_key + STEP);
        u32 stage = stages + first_key / STEP % 2 * 2 * STEP * PITCH;
        float p[STEP / 8][4] = {}, slopes[STEP / 8][4] = {};
        products<D_PADDED>(p, q_tile, stage);
        products<D_PADDED>(slopes, g_tile, stage + STEP * PITCH);
#pragma unroll
        for (u32 j = 0; j < STEP / 8; j++) {
#pragma unroll
            for (u32 i = 0; i < 4; i++) {
                p[j][i] = exp2_fast(p[j][i] * (in.scale * LOG2_E) - lse[i / 2]) * (slopes[j][i] - delta[i / 2]);
            }
        }
        if (!sight.all(first_query, first_key, STEP)) blank<STEP>(p, sight, ends, first_key, 0.0f);
        sums.add(p, stage);
    }
    u64 base = (static_cast<u64>(batch) * sight.sq * in.hq + head) * in.d;
    sums.store(dq + base, first_query + warp_id() * 16, sight.sq, static_cast<u64>(in.hq) * in.d, in.d, in.scale);
}

// Grid (⌈Sk/64⌉, Hkv, B), block 128, 512 · (D_PADDED + 8) + 512 bytes of shared memory: k, v, two steps of q, g, and of lse, delta.
template <u32 D_PADDED>
__device__ inline void grad_kv(bf16* dk, bf16* dv, Inputs<bf16> in) {
    DYNAMIC_SHARED(shared);
    constexpr u32 PITCH = pitch<D_PADDED>();
    u32 k_tile = smem_u32(shared), v_tile = k_tile + OWN * PITCH, stages = v_tile + OWN * PITCH;
    float* rows = reinterpret_cast<float*>(shared + 4 * OWN * PITCH);
    u32 first_key = blockIdx.x * OWN, key_head = blockIdx.y, batch = blockIdx.z, lane = lane_id();
    u32 group = in.hq / in.hkv;
    Sight sight = in.sight;
    if (sight.mask) sight.mask += static_cast<u64>(batch) * sight.sk;
    // Steps of one head after those of the other, all from the first query that sees a key of the block.
    u32 begin = sight.begin(first_key) / STEP * STEP, per_head = begin < sight.sq ? ceil_div(sight.sq - begin, STEP) : 0, steps = per_head * group;
    auto fetch = [&](u32 step) {
        if (step < steps) {
            u32 head = key_head * group + step / per_head, first_query = begin + step % per_head * STEP;
            u32 stage = stages + step % 2 * 2 * STEP * PITCH;
            load<D_PADDED, STEP>(stage, in.q + in.qs.at(batch, 0, head), in.qs.token, first_query, sight.sq, in.d);
            load<D_PADDED, STEP>(stage + STEP * PITCH, in.g + in.gs.at(batch, 0, head), in.gs.token, first_query, sight.sq, in.d);
            if (threadIdx.x < STEP) {
                u32 query = first_query + threadIdx.x;
                u64 row = (static_cast<u64>(batch) * in.hq + head) * sight.sq + query;
                float* to = rows + step % 2 * 2 * STEP + threadIdx.x;
                to[0] = query < sight.sq ? in.lse[row] * LOG2_E : 0.0f;
                to[STEP] = query < sight.sq ? in.delta[row] : 0.0f;
            }
        }
        cp_async_commit();
    };
    load<D_PADDED, OWN>(k_tile, in.k + in.ks.at(batch, 0, key_head), in.ks.token, first_key, sight.sk, in.d);
    load<D_PADDED, OWN>(v_tile, in.v + in.vs.at(batch, 0, key_head), in.vs.token, first_key, sight.sk, in.d);
    fetch(0);
    // The first query that sees each of this lane's two keys; none sees what the mask hides.
    u32 begins[2];
#pragma unroll
    for (u32 r = 0; r < 2; r++) {
        u32 key = first_key + warp_id() * 16 + lane / 4 + r * 8;
        begins[r] = sight.hides(key) ? sight.sq : sight.begin(key);
    }
    HeadSums<D_PADDED> k_sums, v_sums;
    for (u32 step = 0; step < steps; step++) {
        cp_async_wait<0>();
        block_sync();
        // The other stage was read before the barrier.
        fetch(step + 1);
        u32 stage = stages + step % 2 * 2 * STEP * PITCH, first_query = begin + step % per_head * STEP;
        const float *lse = rows + step % 2 * 2 * STEP, *delta = lse + STEP;
        float p[STEP / 8][4] = {}, slopes[STEP / 8][4] = {};
        products<D_PADDED>(p, k_tile, stage);
        products<D_PADDED>(slopes, v_tile, stage + STEP * PITCH);
#pragma unroll
        for (u32 j = 0; j < STEP / 8; j++) {
#pragma unroll
            for (u32 i = 0; i < 4; i++) {
                p[j][i] = exp2_fast(p[j][i] * (in.scale * LOG2_E) - lse[j * 8 + lane % 4 * 2 + i % 2]);
            }
        }
        if (first_query + STEP > sight.sq || !sight.all(first_query, first_key, OWN)) {
#pragma unroll
            for (u32 j = 0; j < STEP / 8; j++) {
#pragma unroll
                for (u32 i = 0; i < 4; i++) {
                    u32 query = first_query + j * 8 + lane % 4 * 2 + i % 2;
                    if (query < begins[i / 2] || query >= sight.sq) p[j][i] = 0.0f;
                }
            }
        }
#pragma unroll
        for (u32 j = 0; j < STEP / 8; j++) {
#pragma unroll
            for (u32 i = 0; i < 4; i++) slopes[j][i] = p[j][i] * (slopes[j][i] - delta[j * 8 + lane % 4 * 2 + i % 2]);
        }
        v_sums.add(p, stage + STEP * PITCH);
        k_sums.add(slopes, stage);
    }
    // Without a step nobody has waited for the copies of k and v.
    cp_async_wait<0>();
    u64 base = (static_cast<u64>(batch) * sight.sk * in.hkv + key_head) * in.d, stride = static_cast<u64>(in.hkv) * in.d;
    k_sums.store(dk + base, first_key + warp_id() * 16, sight.sk, stride, in.d, in.scale);
    v_sums.store(dv + base, first_key + warp_id() * 16, sight.sk, stride, in.d, 1.0f);
}

}  // namespace flash

#define ATTENTION_FLASH_GRAD(D_PADDED)                                                                                                   \
    extern "C" __global__ void __launch_bounds__(flash::THREADS) attention_flash_grad_q_##D_PADDED(bf16* dq, GRAD_PARAMETERS(bf16)) {    \
        flash::grad_q<D_PADDED>(dq, GRAD_INPUTS(bf16));                                                                                  \
    }                                                                                                                                    \
    KERNEL(attention_flash_grad_q_##D_PADDED)                                                                                            \
    extern "C" __global__ void __launch_bounds__(flash::THREADS)                                                                         \
        attention_flash_grad_kv_##D_PADDED(bf16* dk, bf16* dv, GRAD_PARAMETERS(bf16)) {                                                  \
        flash::grad_kv<D_PADDED>(dk, dv, GRAD_INPUTS(bf16));                                                                             \
    }                                                                                                                                    \
    KERNEL(attention_flash_grad_kv_##D_PADDED)

ATTENTION_FLASH_GRAD(64)
ATTENTION_FLASH_GRAD(80)
ATTENTION_FLASH_GRAD(128)
