// Parts that the tensor-core rungs of attention and of its gradient share: tiles of tokens of one head in shared memory, token by token, and what a query
// sees.
#pragma once
#include "common/layout.cuh"

namespace flash {

constexpr u32 THREADS = 128;
constexpr float LOG2_E = 1.4426950408889634f, LN_2 = 0.6931471805599453f;

// Bytes from one token of a tile to the next; tokens that ldmatrix reads at once begin in different banks.
template <u32 D_PADDED>
__device__ constexpr u32 pitch() {
    return (D_PADDED + 8) * 2;
}

// Starts copying TOKENS tokens of a head, zeros beyond the last token and beyond D.
template <u32 D_PADDED, u32 TOKENS>
__device__ inline void load(u32 to, const bf16* from, u32 token_stride, u32 first, u32 tokens, u32 d) {
    constexpr u32 CHUNKS = D_PADDED / 8, ALL = TOKENS * CHUNKS;
#pragma unroll
    for (u32 i = 0; i < (ALL + THREADS - 1) / THREADS; i++) {
        u32 chunk = i * THREADS + threadIdx.x;
        if (ALL % THREADS != 0 && chunk >= ALL) break;
        u32 row = chunk / CHUNKS, column = chunk % CHUNKS * 8;
        bool valid = first + row < tokens && column < d;
        u64 offset = valid ? static_cast<u64>(first + row) * token_stride + column : 0;
        cp_async16_or_zero(to + row * pitch<D_PADDED>() + column * 2, from + offset, valid);
    }
}

// The left operand: tokens `row` to row + 15, 16 values from `column` on.
template <u32 D_PADDED>
__device__ inline void left(u32 (&r)[4], u32 tile, u32 row, u32 column) {
    u32 lane = lane_id();
    ldmatrix_x4(r, tile + (row + lane % 16) * pitch<D_PADDED>() + lane / 16 * 16 + column * 2);
}
// The right operand with the tokens as columns of the product: 16 of them.
template <u32 D_PADDED>
__device__ inline void right(u32 (&r)[4], u32 tile, u32 row, u32 column) {
    u32 lane = lane_id();
    ldmatrix_x4(r, tile + (row + lane / 16 * 8 + lane % 8) * pitch<D_PADDED>() + lane / 8 % 2 * 16 + column * 2);
}
// The right operand with the tokens as the inner dimension of the product, and 16 values from `column` on as its columns.
template <u32 D_PADDED>
__device__ inline void right_inner(u32 (&r)[4], u32 tile, u32 row, u32 column) {
    u32 lane = lane_id();
    ldmatrix_x4_trans(r, tile + (row + lane % 16) * pitch<D_PADDED>() + lane / 16 * 16 + column * 2);
}

// Sets to `value` what this lane's two rows of products with KEYS keys from `first_key` on are, where a query does not see a key: the queries see the
// keys up to `ends`, but for those that the mask hides.
template <u32 KEYS, class Sight>
__device__ inline void blank(float (&products)[KEYS / 8][4], const Sight& sight, const u32 (&ends)[2], u32 first_key, float value) {
    u32 lane = lane_id();
#pragma unroll
    for (u32 j = 0; j < KEYS / 8; j++) {
#pragma unroll
        for (u32 column = 0; column < 2; column++) {
            u32 key = first_key + j * 8 + lane % 4 * 2 + column;
            bool hidden = sight.hides(key);
#pragma unroll
            for (u32 r = 0; r < 2; r++) products[j][2 * r + column] = hidden || key >= ends[r] ? value : products[j][2 * r + column];
        }
    }
}

// A row of sums is spread over the four lanes of a quad.
__device__ inline float quad_max(float v) {
    v = fmaxf(v, shfl_xor(v, 1));
    return fmaxf(v, shfl_xor(v, 2));
}
__device__ inline float quad_sum(float v) {
    v += shfl_xor(v, 1);
    return v + shfl_xor(v, 2);
}

// Two products of 16×8 side by side as a left operand of 16×16, rounded: the layouts agree.
__device__ inline void as_left(u32 (&r)[4], const float (&first)[4], const float (&second)[4]) {
    r[0] = pack_bf16x2(first[0], first[1]);
    r[1] = pack_bf16x2(first[2], first[3]);
    r[2] = pack_bf16x2(second[0], second[1]);
    r[3] = pack_bf16x2(second[2], second[3]);
}

}  // namespace flash

// Sizes, and which keys a query sees: those up to i + Sk − Sq if causal, and of these the ones that the mask does not hide.
struct Sight {
    const u8* mask;  // of this sample, or null
    u32 sq, sk, causal;

    // One past the last key that query i may see.
    __device__ u32 end(u32 query) const {
        if (!causal) return sk;
        i64 end = static_cast<i64>(query) + 1 + sk - sq;
        return end < 0 ? 0 : end < sk ? static_cast<u32>(end) : sk;
    }
    // The first query that may see key j.
    __device__ u32 begin(u32 key) const {
        i64 begin = static_cast<i64>(key) + sq - sk;
        return !causal || begin < 0 ? 0 : static_cast<u32>(begin);
    }
    // Whether each query from `first_query` on sees the `keys` keys from `first_key` on: then nobody needs to look at each.
    __device__ bool all(u32 first_query, u32 first_key, u32 keys) const { return !mask && first_key + keys <= end(first_query); }
    // Whether the mask hides a key.
    __device__ bool hides(u32 key) const { return mask && key < sk && mask[key] == 0; }
    __device__ bool sees(u32 query, u32 key) const {
        return key < sk && query < sq && (!causal || static_cast<i64>(key) + sq <= static_cast<i64>(query) + sk) && !hides(key);
    }
};
