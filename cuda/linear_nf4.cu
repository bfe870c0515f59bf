// linear_nf4: y = x · Wᵀ (+ bias) (+ h · (scale · B)ᵀ) for x [rows, inner] and a 4-bit weight W [outer, inner] (common/quantised.cuh). The low-rank term
// of an adapter comes as h [rows, rank], the inner product (lora.cu), of x's type, and B [outer, rank], f32 or of x's type, whose products with scale are
// rounded to x's type where they are read. A weight's value is rounded once to x's type; sums are f32, rounded once.
//
// The ladder:
//   linear_nf4_tile_*   any sizes and blocks, on the ordinary units: each value of W is expanded where it is read. The reference, and the way for f32
//   linear_nf4_gemv_*   1 to 8 rows. A warp computes one column of y for all rows: each lane reads 16 bytes (32 codes) at a time, so that a warp's read
//                       is 512 contiguous bytes of weight, and every weight is read and expanded once. The value table lies in shared memory once per
//                       lane: 32 lanes look up 32 codes without a bank conflict
//   linear_nf4_decode_* the same on tensor cores, bf16: a byte's two values are looked up together, three instructions a code instead of six, and the products
//                       cost next to none; memory is the limit again. 16 columns of y a block, whose 8 warps share K and add up in shared memory. 64 bytes
//                       of codes a lane are under way before the table is filled: 64 KB a multiprocessor with the four blocks that fit
//   linear_nf4_gemm_*   more rows, on tensor cores, bf16: as matmul_mma, but a tile of W is expanded from codes on its way into shared memory, once per
//                       64 rows of x. Codes and x come by cp.async two steps ahead; each thread expands the codes that it has copied itself, so that a step
//                       has one barrier. The low-rank term is a continuation of K
//   linear_nf4_large_*  the same on 128×128: each weight is expanded half as often
#include "common/nf4.cuh"
#include "common/nf4_decode.cuh"
#include "common/reduce.cuh"
#include "common/simt.cuh"

// Grid (⌈outer/64⌉, ⌈rows/64⌉), block 256, simt::BYTES of shared memory.
template <class T>
__device__ inline void linear_nf4_tile(T* y, const T* x, const Quantised& q, const T* bias, const T* h, nf4::Outer<T> b, u32 rows, u32 outer, u32 inner,
                                       u32 rank) {
    simt::product(
        rows, outer, inner + rank, blockIdx.y * simt::TILE, blockIdx.x * simt::TILE, true, true,
        [=](u32 row, u32 i) {
            return to_f32(i < inner ? x[static_cast<u64>(row) * inner + i] : h[static_cast<u64>(row) * rank + i - inner]);
        },
        [=](u32 i, u32 column) {
            if (i < inner) return round_as(T(), q.value4(static_cast<u64>(column) * inner + i));
            return b.of(static_cast<u64>(column) * rank + i - inner);
        },
        [=](u32 row, u32 column, float sum) {
            from_f32(y[static_cast<u64>(row) * outer + column], sum + (bias ? to_f32(bias[column]) : 0.0f));
        });
}

constexpr u32 MOST_ROWS = 8;

// Adds this lane's share of a column to the sums of all rows, CODES (16 or 32) codes at a time.
template <u32 CODES, class T>
__device__ inline void add_column(float (&sums)[MOST_ROWS], const T* x, const u8* codes, const nf4::Scales& scales, const nf4::Table& table, u64 first,
                                  u32 rows, u32 inner) {
    for (u32 at = lane_id() * CODES; at < inner; at += WARP_SIZE * CODES) {
        float scale = scales.of(first + at);
        u32 words[CODES / 8];
        if constexpr (CODES == 32) {
            u32x4 packed = load16_stream(codes + (first + at) / 2);
            words[0] = packed.x, words[1] = packed.y, words[2] = packed.z, words[3] = packed.w;
        } else {
            u32x2 packed = *reinterpret_cast<const u32x2*>(codes + (first + at) / 2);
            words[0] = packed.x, words[1] = packed.y;
        }
#pragma unroll
        for (u32 word = 0; word < CODES / 8; word++) {
            float weights[8];
            nf4::expand<T>(weights, words[word], table, scale);
#pragma unroll
            for (u32 row = 0; row < MOST_ROWS; row++) {
                if (row >= rows) break;
                float inputs[8];
                load_values(inputs, x + static_cast<u64>(row) * inner + at + word * 8);
#pragma unroll
                for (u32 i = 0; i < 8; i++) sums[row] += inputs[i] * weights[i];
            }
        }
    }
}

// Grid ⌈outer/4⌉, block 128, nf4::TABLE_BYTES of shared memory.
template <class T>
__device__ inline void linear_nf4_gemv(T* y, const T* x, const Quantised& q, const T* bias, const T* h, nf4::Outer<T> b, u32 rows, u32 outer, u32 inner,
                                       u32 rank) {
    DYNAMIC_SHARED(shared);
    nf4::Table table = nf4::Table::spread(shared, q.table);
    block_sync();
    u32 column = blockIdx.x * (blockDim.x / WARP_SIZE) + warp_id();
    if (column >= outer) return;
    nf4::Scales scales(q);
    u64 first = static_cast<u64>(column) * inner;
    float sums[MOST_ROWS] = {};
    // Columns begin at multiples of 16 bytes, or of 8.
    if (inner % 32 == 0) {
        add_column<32>(sums, x, q.codes, scales, table, first, rows, inner);
    } else {
        add_column<16>(sums, x, q.codes, scales, table, first, rows, inner);
    }
#pragma unroll
    for (u32 row = 0; row < MOST_ROWS; row++) {
        if (row >= rows) break;
        for (u32 i = lane_id(); i < rank; i += WARP_SIZE) {
            sums[row] += to_f32(h[static_cast<u64>(row) * rank + i]) * b.of(static_cast<u64>(column) * rank + i);
        }
        float sum = warp_reduce_sum(sums[row]);
        if (lane_id() == 0) from_f32(y[static_cast<u64>(row) * outer + column], sum + (bias ? to_f32(bias[column]) : 0.0f));
    }
}

#define LINEAR_NF4(suffix, T)                                                                                                              \
    extern "C" __global__ void __launch_bounds__(256)                                                                                      \
        linear_nf4_tile_##suffix(T* y, const T* x, QUANTISED_POINTERS, const T* bias, const T* h, const void* b, Blocks blocks, u32 rows,  \
                                 u32 outer, u32 inner, u32 rank, u32 wide, float scale) {                                                  \
        linear_nf4_tile(y, x, QUANTISED, bias, h, nf4::Outer<T>{b, wide != 0, scale}, rows, outer, inner, rank);                                                            \
    }                                                                                                                                      \
    KERNEL(linear_nf4_tile_##suffix)                                                                                                       \
    extern "C" __global__ void __launch_bounds__(128, 8)                                                                                      \
        linear_nf4_gemv_##suffix(T* y, const T* x, QUANTISED_POINTERS, const T* bias, const T* h, const void* b, Blocks blocks, u32 rows,  \
                                 u32 outer, u32 inner, u32 rank, u32 wide, float scale) {                                                  \
        linear_nf4_gemv(y, x, QUANTISED, bias, h, nf4::Outer<T>{b, wide != 0, scale}, rows, outer, inner, rank);                                                            \
    }                                                                                                                                      \
    KERNEL(linear_nf4_gemv_##suffix)

FOR_PARAMETERS(LINEAR_NF4)

// Grid ⌈outer/16⌉, block 256, nf4::DECODE_BYTES of shared memory.
extern "C" __global__ void __launch_bounds__(nf4::DECODE_THREADS, 4)
    linear_nf4_decode_bf16(bf16* y, const bf16* x, QUANTISED_POINTERS, const bf16* bias, const bf16* h, const void* b, Blocks blocks, u32 rows,
                           u32 outer, u32 inner, u32 rank, u32 wide, float scale) {
    nf4::decode(y, x, QUANTISED, bias, h, {b, wide != 0, scale}, rows, outer, inner, rank, blockIdx.x);
}
KERNEL(linear_nf4_decode_bf16)

// Grid (⌈outer/LINES_B⌉, ⌈rows/LINES_A⌉), block THREADS; in shared memory three tiles of x, two of W, nf4::TABLE_BYTES, and three places of 8 bytes a thread.
template <class S>
__device__ inline void linear_nf4_gemm(bf16* y, const bf16* x, const Quantised& q, const bf16* bias, const bf16* h, nf4::Outer<bf16> b, u32 rows,
                                       u32 outer, u32 inner, u32 rank) {
    DYNAMIC_SHARED(shared);
    constexpr u32 STAGES = 3, X_BYTES = tile::bytes<S::LINES_A>(), W_BYTES = tile::bytes<S::LINES_B>();
    constexpr u32 PITCH = tile::pitch<tile::ALONG, S::LINES_B>();
    static_assert(STAGES * X_BYTES + 2 * W_BYTES + nf4::TABLE_BYTES + STAGES * S::THREADS * 8 == (S::THREADS == 128 ? 30720 : 59392),
                  "as engine/src/cuda/linear_nf4.rs launches it");
    static_assert(S::THREADS * 16 == S::LINES_B * tile::DEPTH, "sixteen codes a thread");
    u32 tiles_of_x = smem_u32(shared);
    u8 *tiles_of_w = shared + STAGES * X_BYTES, *codes = tiles_of_w + 2 * W_BYTES + nf4::TABLE_BYTES;
    nf4::Table table = nf4::Table::spread(tiles_of_w + 2 * W_BYTES, q.table);

    u32 first_row = blockIdx.y * S::LINES_A, first_column = blockIdx.x * S::LINES_B;
    // Two threads a row of W, 16 codes each.
    u32 row = threadIdx.x / 2, half = threadIdx.x % 2 * 16;
    u64 start = static_cast<u64>(first_column + row) * inner + half;
    auto inside = [=](u32 at) { return first_column + row < outer && at + half < inner; };
    nf4::Stream<S::THREADS> weights(q, codes);
    u32 steps = ceil_div(inner, tile::DEPTH);
    auto load = [&](u32 step) {
        if (step < steps) {
            u32 at = step * tile::DEPTH;
            tile::load<tile::ALONG, S::LINES_A, S::THREADS>(tiles_of_x + step % STAGES * X_BYTES, x, first_row, rows, at, inner, inner);
            weights.load(step % STAGES, start + at, inside(at));
        }
        cp_async_commit();
    };
    load(0);
    load(1);
    weights.fetch_scale(start, inside(0));
    block_sync();
    tile::Sums<S> sums;
    for (u32 step = 0; step < steps; step++) {
        cp_async_wait<1>();
        // This thread's own codes are there. The tile was read last two steps ago, before the barrier of the last.
        weights.expand(step % STAGES, tiles_of_w + step % 2 * W_BYTES + row * PITCH + half * 2, table);
        u32 next = (step + 1) * tile::DEPTH;
        weights.fetch_scale(start + next, inside(next));
        block_sync();
        load(step + 2);
        sums.template add<tile::ALONG, tile::ALONG>(tiles_of_x + step % STAGES * X_BYTES, smem_u32(tiles_of_w + step % 2 * W_BYTES));
    }
    for (u32 at = 0; at < rank; at += tile::DEPTH) {
        block_sync();
        nf4::fill_any<S::LINES_A, S::THREADS>(shared, first_row, rows, at, rank, [=](u64 place) { return h[place]; });
        nf4::fill_any<S::LINES_B, S::THREADS>(tiles_of_w, first_column, outer, at, rank, [=](u64 place) { return f32_to_bf16(b.of(place)); });
        block_sync();
        sums.template add<tile::ALONG, tile::ALONG>(tiles_of_x, smem_u32(tiles_of_w));
    }
    sums.store(y, bias, first_row, rows, first_column, outer);
}

#define LINEAR_NF4_GEMM(rung, S)                                                                                                        \
    extern "C" __global__ void __launch_bounds__(tile::S::THREADS)                                                                      \
        linear_nf4_##rung##_bf16(bf16* y, const bf16* x, QUANTISED_POINTERS, const bf16* bias, const bf16* h, const void* b, Blocks blocks, \
                                 u32 rows, u32 outer, u32 inner, u32 rank, u32 wide, float scale) {                                     \
        linear_nf4_gemm<tile::S>(y, x, QUANTISED, bias, h, {b, wide != 0, scale}, rows, outer, inner, rank);                                                \
    }                                                                                                                                   \
    KERNEL(linear_nf4_##rung##_bf16)

LINEAR_NF4_GEMM(gemm, Small)
LINEAR_NF4_GEMM(large, Large)
