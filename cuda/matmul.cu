// matmul: C = A · B (+ bias), per batch; f32 sums, rounded once to C's type. Shapes: A [M, K], B [K, N], C [M, N], bias [N].
//
// The ladder:
//   matmul_simple_*  one thread per element of C, any strides: the reference on the device, and the way for shapes that no other takes.
//                    2·M·N·K bytes of bf16 come through the caches: far from the machine's peak.
//   matmul_mma_*     tensor cores. A block of 4 warps computes 64×64 of C, 32 of K at a time, from tiles in shared memory that
//                    cp.async fills two steps ahead (three stages); ldmatrix feeds mma.m16n8k16. Each value of A and B is read from global
//                    memory once per 64 columns or rows of C. Takes A row-major and B as a weight W [N, K], row-major (a linear layer),
//                    rows 16-byte aligned: K a multiple of 8.
#include "common/prelude.cuh"
#include "common/tile.cuh"

// Strides are in elements. `bias` may be null.
template <class In, class Out>
__device__ inline void matmul_simple(Out* c, const In* a, const In* b, const In* bias, u32 m, u32 n, u32 k, u64 a_row, u64 a_col,
                                     u64 a_batch, u64 b_row, u64 b_col, u64 b_batch) {
    u32 column = blockIdx.x * blockDim.x + threadIdx.x;
    u32 row = blockIdx.y * blockDim.y + threadIdx.y;
    if (row >= m || column >= n) return;
    a += blockIdx.z * a_batch + row * a_row;
    b += blockIdx.z * b_batch + column * b_col;
    float sum = 0.0f;
    for (u32 i = 0; i < k; i++) sum += to_f32(a[i * a_col]) * to_f32(b[i * b_row]);
    if (bias) sum += to_f32(bias[column]);
    from_f32(c[(static_cast<u64>(blockIdx.z) * m + row) * n + column], sum);
}

// Grid (⌈N/32⌉, ⌈M/8⌉, batch), block (32, 8).
#define MATMUL_SIMPLE(name, In, Out)                                                                                             \
    extern "C" __global__ void __launch_bounds__(256)                                                                            \
        name(Out* c, const In* a, const In* b, const In* bias, u32 m, u32 n, u32 k, u64 a_row, u64 a_col, u64 a_batch, u64 b_row, \
             u64 b_col, u64 b_batch) {                                                                                           \
        matmul_simple(c, a, b, bias, m, n, k, a_row, a_col, a_batch, b_row, b_col, b_batch);                                     \
    }                                                                                                                            \
    KERNEL(name)

MATMUL_SIMPLE(matmul_simple_f32, float, float)
MATMUL_SIMPLE(matmul_simple_bf16, bf16, bf16)
MATMUL_SIMPLE(matmul_simple_bf16_f32, bf16, float)

constexpr u32 STAGES = 3;

template <class Out>
__device__ inline void matmul_mma(Out* c, const bf16* a, const bf16* w, const bf16* bias, u32 m, u32 n, u32 k, u64 a_batch,
                                  u64 w_batch) {
    DYNAMIC_SHARED(shared);
    u32 tiles_of_a = smem_u32(shared);
    u32 tiles_of_w = tiles_of_a + STAGES * tile::BYTES;
    u32 first_row = blockIdx.y * tile::ROWS, first_column = blockIdx.x * tile::ROWS;
    a += blockIdx.z * a_batch;
    w += blockIdx.z * w_batch;

    u32 steps = ceil_div(k, tile::DEPTH);
    // A group per step, empty past the last: then how many may be under way is always the same.
    auto load = [&](u32 step) {
        if (step < steps) {
            u32 stage = step % STAGES * tile::BYTES;
            tile::load(tiles_of_a + stage, a, first_row, m, step * tile::DEPTH, k);
            tile::load(tiles_of_w + stage, w, first_column, n, step * tile::DEPTH, k);
        }
        cp_async_commit();
    };
    for (u32 step = 0; step < STAGES - 1; step++) load(step);
    tile::Sums sums;
    for (u32 step = 0; step < steps; step++) {
        // This thread's copies for `step` are there; after the barrier everybody's are, and nobody reads the stage of the step before,
        // which is the one to be filled next.
        cp_async_wait<STAGES - 2>();
        block_sync();
        load(step + STAGES - 1);
        u32 stage = step % STAGES * tile::BYTES;
        sums.add(tiles_of_a + stage, tiles_of_w + stage);
    }
    sums.store(c + static_cast<u64>(blockIdx.z) * m * n, bias, first_row, m, first_column, n);
}

// Grid (⌈N/64⌉, ⌈M/64⌉, batch), block 128, 30720 bytes of shared memory.
#define MATMUL_MMA(name, Out)                                                                                                  \
    extern "C" __global__ void __launch_bounds__(tile::THREADS)                                                                 \
        name(Out* c, const bf16* a, const bf16* w, const bf16* bias, u32 m, u32 n, u32 k, u64 a_batch, u64 w_batch) {          \
        matmul_mma(c, a, w, bias, m, n, k, a_batch, w_batch);                                                                 \
    }                                                                                                                          \
    KERNEL(name)

MATMUL_MMA(matmul_mma_bf16, bf16)
MATMUL_MMA(matmul_mma_bf16_f32, float)
