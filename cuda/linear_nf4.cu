// linear_nf4: y = x · Wᵀ (+ bias) for x [rows, in] and a 4-bit weight W [out, in]: codes two to a byte, the even element in the high half, in
// blocks of 2^block_shift values with one scale each. A weight's value is table[code] · scale, rounded once to x's type; sums are f32, rounded
// once. Scales are f32, or with `nested_absmax` 8-bit codes: map[code] · nested_absmax[block >> nested_shift] + offset.
//
// The ladder:
//   linear_nf4_gemv_*  1 to 8 rows. A warp computes one column of y for all rows: each lane reads 16 bytes (32 codes, half a block of 64) at a
//                      time, so that a warp's read is 512 contiguous bytes of weight, and every weight is read and expanded once. The value
//                      table lies in shared memory once per lane: 32 lanes look up 32 codes without a bank conflict. `in` is a multiple of
//                      the block, and the block of 32.
//   linear_nf4_gemm_*  more rows, on tensor cores: as matmul_mma, but a tile of W is expanded from codes on its way into shared memory, once per
//                      64 rows of x. The codes of the next step are fetched into registers while this one is multiplied, and x comes by
//                      cp.async: one barrier a step. bf16.
#include "common/prelude.cuh"
#include "common/reduce.cuh"
#include "common/tile.cuh"

constexpr u32 MOST_ROWS = 8;
constexpr u32 CODES = 32;  // in the 16 bytes that a lane reads

// Scales of a weight's blocks.
struct Scales {
    const u8* absmax;
    const float* nested_absmax;
    const float* map;
    float offset;
    u32 nested_shift;

    __device__ float of(u64 block) const {
        if (!nested_absmax) return reinterpret_cast<const float*>(absmax)[block];
        return map[absmax[block]] * nested_absmax[block >> nested_shift] + offset;
    }
};

// Grid ⌈out/4⌉, block 128, 2048 bytes of shared memory.
template <class T>
__device__ inline void linear_nf4_gemv(T* y, const T* x, const u8* codes, Scales scales, const float* table, const T* bias, u32 rows,
                                       u32 outer, u32 inner, u32 block_shift) {
    DYNAMIC_SHARED(shared);
    float* values = reinterpret_cast<float*>(shared);
    for (u32 i = threadIdx.x; i < 16 * WARP_SIZE; i += blockDim.x) values[i] = table[i / WARP_SIZE];
    block_sync();
    values += lane_id();

    u32 column = blockIdx.x * (blockDim.x / WARP_SIZE) + warp_id();
    if (column >= outer) return;
    u64 first = static_cast<u64>(column) * inner;
    float sums[MOST_ROWS] = {};
    for (u32 at = lane_id() * CODES; at < inner; at += WARP_SIZE * CODES) {
        float scale = scales.of((first + at) >> block_shift);
        u32x4 packed = load16_stream(codes + (first + at) / 2);
        u32 words[4] = {packed.x, packed.y, packed.z, packed.w};
#pragma unroll
        for (u32 word = 0; word < 4; word++) {
#pragma unroll
            for (u32 byte = 0; byte < 4; byte++) {
                u32 pair = words[word] >> (8 * byte) & 0xff;
                float even = round_as(T(), values[(pair >> 4) * WARP_SIZE] * scale);
                float odd = round_as(T(), values[(pair & 15) * WARP_SIZE] * scale);
                const T* inputs = x + at + word * 8 + byte * 2;
#pragma unroll
                for (u32 row = 0; row < MOST_ROWS; row++) {
                    if (row >= rows) break;
                    sums[row] += to_f32(inputs[static_cast<u64>(row) * inner]) * even;
                    sums[row] += to_f32(inputs[static_cast<u64>(row) * inner + 1]) * odd;
                }
            }
        }
    }
#pragma unroll
    for (u32 row = 0; row < MOST_ROWS; row++) {
        if (row >= rows) break;
        float sum = warp_reduce_sum(sums[row]);
        if (lane_id() == 0) from_f32(y[static_cast<u64>(row) * outer + column], sum + (bias ? to_f32(bias[column]) : 0.0f));
    }
}

#define LINEAR_NF4_GEMV(name, T)                                                                                                  \
    extern "C" __global__ void __launch_bounds__(128)                                                                             \
        name(T* y, const T* x, const u8* codes, const u8* absmax, const float* nested_absmax, const float* map, const float* table, \
             const T* bias, float offset, u32 nested_shift, u32 rows, u32 outer, u32 inner, u32 block_shift) {                    \
        linear_nf4_gemv(y, x, codes, Scales{absmax, nested_absmax, map, offset, nested_shift}, table, bias, rows, outer, inner,   \
                        block_shift);                                                                                             \
    }                                                                                                                             \
    KERNEL(name)

LINEAR_NF4_GEMV(linear_nf4_gemv_f32, float)
LINEAR_NF4_GEMV(linear_nf4_gemv_bf16, bf16)

// The codes of a tile of W that this thread expands: half a row, with their scale.
struct Codes {
    u32x2 packed;
    float scale;
};

// Grid (⌈out/64⌉, ⌈rows/64⌉), block 128, 22528 bytes of shared memory.
extern "C" __global__ void __launch_bounds__(tile::THREADS)
    linear_nf4_gemm_bf16(bf16* y, const bf16* x, const u8* codes, const u8* absmax, const float* nested_absmax, const float* map,
                         const float* table, const bf16* bias, float offset, u32 nested_shift, u32 rows, u32 outer, u32 inner,
                         u32 block_shift) {
    DYNAMIC_SHARED(shared);
    constexpr u32 STAGES = 2;
    u32 tiles_of_x = smem_u32(shared);
    u8* tiles_of_w = shared + STAGES * tile::BYTES;
    float* values = reinterpret_cast<float*>(tiles_of_w + STAGES * tile::BYTES);
    for (u32 i = threadIdx.x; i < 16 * WARP_SIZE; i += tile::THREADS) values[i] = table[i / WARP_SIZE];
    block_sync();
    values += lane_id();

    Scales scales{absmax, nested_absmax, map, offset, nested_shift};
    u32 first_row = blockIdx.y * tile::ROWS, first_column = blockIdx.x * tile::ROWS;
    // Two threads a row of W, 16 codes each.
    u32 row = threadIdx.x / 2, half = threadIdx.x % 2 * 16;
    bool valid = first_column + row < outer;
    u64 start = static_cast<u64>(valid ? first_column + row : 0) * inner + half;
    // A tile's 32 columns lie in one block of the weight.
    auto fetch = [&](u32 step) {
        u64 at = start + step * tile::DEPTH;
        Codes fetched;
        fetched.packed = *reinterpret_cast<const u32x2*>(codes + at / 2);
        fetched.scale = valid ? scales.of(at >> block_shift) : 0.0f;
        return fetched;
    };
    auto expand = [&](const Codes& fetched, u8* to) {
        u32 words[2] = {fetched.packed.x, fetched.packed.y};
#pragma unroll
        for (u32 word = 0; word < 2; word++) {
            u32 pairs[4];
#pragma unroll
            for (u32 byte = 0; byte < 4; byte++) {
                u32 pair = words[word] >> (8 * byte) & 0xff;
                pairs[byte] = pack_bf16x2(values[(pair >> 4) * WARP_SIZE] * fetched.scale, values[(pair & 15) * WARP_SIZE] * fetched.scale);
            }
            *reinterpret_cast<u32x4*>(to + row * tile::PITCH + (half + 8 * word) * 2) = {pairs[0], pairs[1], pairs[2], pairs[3]};
        }
    };

    u32 steps = inner / tile::DEPTH;
    tile::load(tiles_of_x, x, first_row, rows, 0, inner);
    cp_async_commit();
    Codes next = fetch(0);
    tile::Sums sums;
    for (u32 step = 0; step < steps; step++) {
        u32 stage = step % STAGES * tile::BYTES;
        // Read last two steps ago, before the barrier of the last.
        expand(next, tiles_of_w + stage);
        cp_async_wait<0>();
        block_sync();
        if (step + 1 < steps) {
            tile::load(tiles_of_x + (tile::BYTES - stage), x, first_row, rows, (step + 1) * tile::DEPTH, inner);
            cp_async_commit();
            next = fetch(step + 1);
        }
        sums.add(tiles_of_x + stage, smem_u32(tiles_of_w + stage));
    }
    sums.store(y, bias, first_row, rows, first_column, outer);
}
KERNEL(linear_nf4_gemm_bf16)
