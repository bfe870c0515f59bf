// lora: the small products of a low-rank adapter (Hu et al. 2021), by which a launcher makes what linear_nf4 and linear_nf4_grad take: h = dropout(x) · Aᵀ,
// u = dy · (scale · B), dA = uᵀ · dropout(x), dB = scale · dyᵀ · h. Ranks are small: these products read a wide matrix once and have little to compute.
//
// The ladder:
//   lora_factor_*  a factor times a scale in another type, maybe transposed: for those who cannot read it as it is
//   lora_down_*    y [rows, rank] = dropout(x) · fᵀ, f [rank, k] f32 or of x's type. bf16: tensor cores, 16 rows and 16 of the rank a block, whose 8 warps
//                  share K and take their fragments from memory without a detour, 16 bytes a lane and 128 of x and f under way; their sums meet in
//                  shared memory. f32: 16×16 sums, one a thread
//   lora_thin_*    the same of up to 8 rows without dropout: a block computes one of the rank for all rows, so that as many blocks as the rank read at once
//   lora_outer_*   parts [splits, rank, n] = leftᵀ · dropout(right) over a share of K, which is the rows: with few columns the shares fill the device.
//                  bf16: tensor cores, both operands ACROSS (common/tile.cuh)
//   lora_sum_*     the parts' sum, times a scale, maybe transposed: a factor's gradient. One order, the same bits every time
#include "common/dropout.cuh"
#include "common/reduce.cuh"
#include "common/tile.cuh"

#define LORA_FACTOR(a, A, b, B)                                                                                                    \
    extern "C" __global__ void __launch_bounds__(256)                                                                              \
        lora_factor_##a##_##b(B* y, const A* x, u32 rows, u32 cols, u32 transposed, float scale) {                                 \
        for (u32 i = blockIdx.x * blockDim.x + threadIdx.x; i < rows * cols; i += gridDim.x * blockDim.x) {                        \
            u32 from = transposed ? i % rows * cols + i / rows : i;                                                                \
            from_f32(y[i], to_f32(x[from]) * scale);                                                                               \
        }                                                                                                                          \
    }                                                                                                                              \
    KERNEL(lora_factor_##a##_##b)

LORA_FACTOR(f32, float, f32, float)
LORA_FACTOR(f32, float, bf16, bf16)
LORA_FACTOR(bf16, bf16, bf16, bf16)

constexpr u32 WARPS = 8;

// Eight neighbours of a line of K as bf16 pairs, rounded if they are f32; zeros beyond.
template <class T>
__device__ inline void load_pairs(u32 (&to)[4], const T* from, u32 line, u32 lines, u32 at, u32 k, bool wide) {
    if (line >= lines || at >= k) {
#pragma unroll
        for (u32 i = 0; i < 4; i++) to[i] = 0;
        return;
    }
    from += static_cast<u64>(line) * k + at;
    if constexpr (sizeof(T) == 2) {
        if (wide) {
            u32x4 packed = load16(from);
            to[0] = packed.x, to[1] = packed.y, to[2] = packed.z, to[3] = packed.w;
            return;
        }
    }
    float values[8];
    if (wide) {
        load_values(values, from);
    } else {
#pragma unroll
        for (u32 i = 0; i < 8; i++) values[i] = at + i < k ? to_f32(from[i]) : 0.0f;
    }
#pragma unroll
    for (u32 i = 0; i < 4; i++) to[i] = pack_bf16x2(values[2 * i], values[2 * i + 1]);
}

// K may come in any order, as long as it is the same for both operands: each lane has eight neighbours of two rows and of two lines, which serve two products.
// Grid (⌈rows/16⌉, ⌈rank/16⌉), block 256, 8192 bytes of shared memory.
template <class F>
__device__ inline void lora_down(bf16* y, const bf16* x, const F* f, u32 rows, u32 k, u32 rank, Dropout dropout) {
    DYNAMIC_SHARED(shared);
    constexpr u32 STEP = 32, AT_ONCE = 2;
    float* partial = reinterpret_cast<float*>(shared);
    bool drops = dropout.threshold > 0 || dropout.scale != 1.0f, wide = k % 8 == 0 && aligned(x, 16) && aligned(f, 16);
    u32 lane = lane_id(), first_row = blockIdx.x * 16, first = blockIdx.y * 16, row = first_row + lane / 4, line = first + lane / 4;
    float sums[2][4] = {};
    for (u32 start = warp_id() * STEP; start < k; start += WARPS * STEP * AT_ONCE) {
        // [step][row or line, and the one 8 further]: all under way before the first is used.
        u32 left[AT_ONCE][2][4], right[AT_ONCE][2][4];
#pragma unroll
        for (u32 step = 0; step < AT_ONCE; step++) {
            u32 at = start + step * WARPS * STEP + lane % 4 * 8;
#pragma unroll
            for (u32 half = 0; half < 2; half++) {
                load_pairs(left[step][half], x, row + 8 * half, rows, at, k, wide);
                load_pairs(right[step][half], f, line + 8 * half, rank, at, k, wide);
            }
        }
#pragma unroll
        for (u32 step = 0; step < AT_ONCE; step++) {
            if (drops) {
                u32 at = start + step * WARPS * STEP + lane % 4 * 8;
#pragma unroll
                for (u32 half = 0; half < 2; half++) {
                    u32 index = (row + 8 * half) * k + at;
#pragma unroll
                    for (u32 i = 0; i < 4; i++) {
                        u32& pair = left[step][half][i];
                        pair = pack_bf16x2(dropout.of(index + 2 * i, bf16x2_low(pair)), dropout.of(index + 2 * i + 1, bf16x2_high(pair)));
                    }
                }
            }
#pragma unroll
            for (u32 part = 0; part < 4; part += 2) {
                u32 a[4] = {left[step][0][part], left[step][1][part], left[step][0][part + 1], left[step][1][part + 1]};
#pragma unroll
                for (u32 j = 0; j < 2; j++) mma_bf16_16816(sums[j], a, right[step][j][part], right[step][j][part + 1]);
            }
        }
    }
#pragma unroll
    for (u32 j = 0; j < 2; j++) {
#pragma unroll
        for (u32 r = 0; r < 4; r++) {
            partial[warp_id() * 256 + (lane / 4 + r / 2 * 8) * 16 + j * 8 + lane % 4 * 2 + r % 2] = sums[j][r];
        }
    }
    block_sync();
    u32 out_row = first_row + threadIdx.x / 16, column = first + threadIdx.x % 16;
    if (out_row >= rows || column >= rank) return;
    float sum = 0.0f;
    for (u32 warp = 0; warp < WARPS; warp++) sum += partial[warp * 256 + threadIdx.x];
    y[static_cast<u64>(out_row) * rank + column] = f32_to_bf16(sum);
}

// Grid `rank`, block 256, 256 bytes of shared memory. k a multiple of 8, x and f 16-byte aligned.
template <class T, class F>
__device__ inline void lora_thin(T* y, const T* x, const F* f, u32 rows, u32 k, u32 rank) {
    DYNAMIC_SHARED(shared);
    constexpr u32 MOST_ROWS = 8, LANES = 8;
    float* partial = reinterpret_cast<float*>(shared);
    f += static_cast<u64>(blockIdx.x) * k;
    float sums[MOST_ROWS] = {};
    for (u32 at = threadIdx.x * LANES; at < k; at += WARPS * WARP_SIZE * LANES) {
        float factors[LANES];
        load_values(factors, f + at);
#pragma unroll
        for (u32 row = 0; row < MOST_ROWS; row++) {
            if (row >= rows) break;
            float values[LANES];
            load_values(values, x + static_cast<u64>(row) * k + at);
#pragma unroll
            for (u32 i = 0; i < LANES; i++) sums[row] += values[i] * round_as(T(), factors[i]);
        }
    }
#pragma unroll
    for (u32 row = 0; row < MOST_ROWS; row++) {
        if (row >= rows) break;
        float sum = warp_reduce_sum(sums[row]);
        if (lane_id() == 0) partial[warp_id() * MOST_ROWS + row] = sum;
    }
    block_sync();
    if (threadIdx.x >= rows) return;
    float sum = 0.0f;
    for (u32 warp = 0; warp < WARPS; warp++) sum += partial[warp * MOST_ROWS + threadIdx.x];
    from_f32(y[static_cast<u64>(threadIdx.x) * rank + blockIdx.x], sum);
}

#define LORA_THIN(name, F, suffix, T)                                                                                             \
    extern "C" __global__ void __launch_bounds__(WARPS* WARP_SIZE)                                                             \
        lora_thin_##name##_##suffix(T* y, const T* x, const F* f, u32 rows, u32 k, u32 rank) { lora_thin(y, x, f, rows, k, rank); } \
    KERNEL(lora_thin_##name##_##suffix)
LORA_THIN(f32, float, f32, float)
LORA_THIN(f32, float, bf16, bf16)
LORA_THIN(bf16, bf16, bf16, bf16)

// Grid (⌈rows/16⌉, ⌈rank/16⌉), block 256, 8192 bytes of shared memory: strips of 64 of K of both operands.
__device__ inline void lora_down(float* y, const float* x, const float* f, u32 rows, u32 k, u32 rank, Dropout dropout) {
    DYNAMIC_SHARED(shared);
    // A row of `right` is turned by its number: threads that read a column of it reach different banks.
    constexpr u32 STRIP = 64, PITCH = STRIP;
    float *left = reinterpret_cast<float*>(shared), *right = left + 16 * PITCH;
    u32 first_row = blockIdx.x * 16, first = blockIdx.y * 16;
    u32 row = threadIdx.x / 16, column = threadIdx.x % 16;
    float sum = 0.0f;
    for (u32 at = 0; at < k; at += STRIP) {
        for (u32 i = threadIdx.x; i < 16 * STRIP; i += blockDim.x) {
            u32 line = i / STRIP, depth = i % STRIP;
            bool inside = at + depth < k;
            u32 index = (first_row + line) * k + at + depth;
            left[line * PITCH + depth] =
                inside && first_row + line < rows ? dropout.of(index, x[static_cast<u64>(first_row + line) * k + at + depth]) : 0.0f;
            right[line * PITCH + (depth + line) % PITCH] =
                inside && first + line < rank ? f[static_cast<u64>(first + line) * k + at + depth] : 0.0f;
        }
        block_sync();
        for (u32 depth = 0; depth < STRIP; depth++) sum += left[row * PITCH + depth] * right[column * PITCH + (depth + column) % PITCH];
        block_sync();
    }
    if (first_row + row < rows && first + column < rank) y[static_cast<u64>(first_row + row) * rank + first + column] = sum;
}

#define LORA_DOWN(name, F, suffix, T)                                                                                                          \
    extern "C" __global__ void __launch_bounds__(WARPS* WARP_SIZE)                                                                             \
        lora_down_##name##_##suffix(T* y, const T* x, const F* f, u32 rows, u32 k, u32 rank, u32 low, u32 high, u32 threshold, float keep) {   \
        lora_down(y, x, f, rows, k, rank, Dropout{low, high, threshold, keep});                                                                \
    }                                                                                                                                          \
    KERNEL(lora_down_##name##_##suffix)
LORA_DOWN(f32, float, f32, float)
LORA_DOWN(f32, float, bf16, bf16)
LORA_DOWN(bf16, bf16, bf16, bf16)

// The shares of K: whole steps, so that only the last one is short.
__device__ inline void share_of(u32 k, u32 splits, u32& begin, u32& end) {
    u32 share = ceil_div(ceil_div(k, splits), tile::DEPTH) * tile::DEPTH;
    begin = min_u32(blockIdx.z * share, k);
    end = min_u32(begin + share, k);
}

// Grid (⌈n/64⌉, ⌈rank/16⌉, splits), block 128, 6144 bytes of shared memory. Four warps, 16 columns each.
__device__ inline void lora_outer(float* parts, const bf16* left, const bf16* right, u32 k, u32 rank, u32 n, u32 splits, Dropout dropout) {
    DYNAMIC_SHARED(shared);
    constexpr u32 LEFT_PITCH = tile::pitch<tile::ACROSS, 16>(), RIGHT_PITCH = tile::pitch<tile::ACROSS, 64>();
    constexpr u32 LEFT_BYTES = tile::DEPTH * LEFT_PITCH;
    u8* tile_of_right = shared + LEFT_BYTES;
    bool drops = dropout.threshold > 0 || dropout.scale != 1.0f, whole = n % 8 == 0 && aligned(right, 16);
    u32 first = blockIdx.y * 16, first_column = blockIdx.x * 64, begin, end;
    share_of(k, splits, begin, end);
    float sums[2][4] = {};
    for (u32 at = begin; at < end; at += tile::DEPTH) {
        for (u32 i = threadIdx.x; i < tile::DEPTH * 16; i += blockDim.x) {
            u32 depth = i / 16, line = i % 16;
            bool valid = at + depth < end && first + line < rank;
            *reinterpret_cast<bf16*>(shared + depth * LEFT_PITCH + line * 2) = valid ? left[static_cast<u64>(at + depth) * rank + first + line] : bf16(0);
        }
        for (u32 i = threadIdx.x; i < tile::DEPTH * 8; i += blockDim.x) {
            u32 depth = i / 8, column = i % 8 * 8;
            float values[8] = {};
            u64 from = static_cast<u64>(at + depth) * n + first_column + column;
            if (at + depth < end) {
                if (whole && first_column + column < n) {
                    load_values(values, right + from);
                } else {
                    for (u32 j = 0; j < 8; j++) values[j] = first_column + column + j < n ? bf16_to_f32(right[from + j]) : 0.0f;
                }
                if (drops) {
#pragma unroll
                    for (u32 j = 0; j < 8; j++) values[j] = dropout.of(static_cast<u32>(from) + j, values[j]);
                }
            }
            *reinterpret_cast<u32x4*>(tile_of_right + depth * RIGHT_PITCH + column * 2) = {
                pack_bf16x2(values[0], values[1]), pack_bf16x2(values[2], values[3]), pack_bf16x2(values[4], values[5]),
                pack_bf16x2(values[6], values[7])};
        }
        block_sync();
#pragma unroll
        for (u32 part = 0; part < tile::DEPTH; part += 16) {
            u32 a[4], b[4];
            tile::fragment_a<tile::ACROSS, 16>(a, smem_u32(shared), 0, part);
            tile::fragment_b<tile::ACROSS, 64>(b, smem_u32(tile_of_right), warp_id() * 16, part);
            mma_bf16_16816(sums[0], a, b[0], b[1]);
            mma_bf16_16816(sums[1], a, b[2], b[3]);
        }
        block_sync();
    }
    u32 lane = lane_id();
#pragma unroll
    for (u32 j = 0; j < 2; j++) {
#pragma unroll
        for (u32 r = 0; r < 4; r++) {
            u32 row = first + lane / 4 + r / 2 * 8, column = first_column + warp_id() * 16 + j * 8 + lane % 4 * 2 + r % 2;
            if (row < rank && column < n) parts[(static_cast<u64>(blockIdx.z) * rank + row) * n + column] = sums[j][r];
        }
    }
}

// Grid (⌈n/64⌉, ⌈rank/16⌉, splits), block 128: a thread has a column and eight rows of the rank.
__device__ inline void lora_outer(float* parts, const float* left, const float* right, u32 k, u32 rank, u32 n, u32 splits, Dropout dropout) {
    u32 first = blockIdx.y * 16 + threadIdx.x / 64 * 8, column = blockIdx.x * 64 + threadIdx.x % 64, begin, end;
    if (column >= n) return;
    share_of(k, splits, begin, end);
    float sums[8] = {};
    for (u32 at = begin; at < end; at++) {
        float v = dropout.of(at * n + column, right[static_cast<u64>(at) * n + column]);
#pragma unroll
        for (u32 j = 0; j < 8; j++) {
            if (first + j < rank) sums[j] += left[static_cast<u64>(at) * rank + first + j] * v;
        }
    }
#pragma unroll
    for (u32 j = 0; j < 8; j++) {
        if (first + j < rank) parts[(static_cast<u64>(blockIdx.z) * rank + first + j) * n + column] = sums[j];
    }
}

#define LORA_OUTER(suffix, T)                                                                                                              \
    extern "C" __global__ void __launch_bounds__(128)                                                                                      \
        lora_outer_##suffix(float* parts, const T* left, const T* right, u32 k, u32 rank, u32 n, u32 splits, u32 low, u32 high,            \
                            u32 threshold, float keep) {                                                                                   \
        lora_outer(parts, left, right, k, rank, n, splits, Dropout{low, high, threshold, keep});                                           \
    }                                                                                                                                      \
    KERNEL(lora_outer_##suffix)
FOR_PARAMETERS(LORA_OUTER)

#define LORA_SUM(suffix, T)                                                                                                      \
    extern "C" __global__ void __launch_bounds__(256)                                                                            \
        lora_sum_##suffix(T* y, const float* parts, u32 rank, u32 n, u32 splits, u32 transposed, float scale) {                  \
        u32 count = rank * n;                                                                                                    \
        for (u32 i = blockIdx.x * blockDim.x + threadIdx.x; i < count; i += gridDim.x * blockDim.x) {                            \
            float sum = 0.0f;                                                                                                    \
            for (u32 split = 0; split < splits; split++) sum += parts[static_cast<u64>(split) * count + i];                      \
            from_f32(y[transposed ? i % n * rank + i / n : i], sum * scale);                                                     \
        }                                                                                                                        \
    }                                                                                                                            \
    KERNEL(lora_sum_##suffix)

FOR_PARAMETERS(LORA_SUM)
