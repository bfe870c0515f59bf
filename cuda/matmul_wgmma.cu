// matmul on warpgroups (wgmma, sm_90a alone): C = A · B (+ bias), per batch, bf16 operands in either order, f32 sums, rounded once to C's type.
//
// Two rungs on matmul's ladder (matmul.cu), whose kernels are their reference:
//   matmul_wgmma_*  a block of two warpgroups computes 128×128 of C, a warpgroup 64 rows of it, 64 of K at a time, from tiles that cp.async fills two steps
//                   ahead; the products run on their own while the next tiles are fetched
//   matmul_wide_*   the same on 128×256: a third less traffic a product
// Until hardware has confirmed what the emulator takes from the documentation these run only where ROENTGEN_CUDA_WGMMA=1 asks for them.
#include "common/layout.cuh"
#include "common/warpgroup.cuh"

#if HOPPER
constexpr u32 STAGES = 4, LINES = 128, BLOCK = 2 * warpgroup::THREADS;

// Grid (⌈N/(128·PARTS)⌉, ⌈M/128⌉, batch), block 256, STAGES tiles of both operands in shared memory.
template <u32 PARTS, tile::Order A, tile::Order B, class Out>
__device__ inline void matmul_wgmma(Out* c, const bf16* a, const bf16* b, const bf16* bias, const View& a_batch, const View& b_batch, u32 m, u32 n,
                                    u32 k, u32 lda, u32 ldb) {
    DYNAMIC_SHARED(shared);
    constexpr u32 COLUMNS = PARTS * warpgroup::COLUMNS, A_BYTES = warpgroup::bytes<LINES>(), B_BYTES = warpgroup::bytes<COLUMNS>();
    static_assert(STAGES * (A_BYTES + B_BYTES) == (PARTS == 1 ? 131072 : 196608), "as engine/src/cuda/matmul.rs launches it");
    u32 tiles_of_a = smem_u32(shared), tiles_of_b = tiles_of_a + STAGES * A_BYTES;
    u32 first_row = blockIdx.y * LINES, first_column = blockIdx.x * COLUMNS, own = warp_id() / 4 * 64;
    a += a_batch.at(blockIdx.z);
    b += b_batch.at(blockIdx.z);

    u32 steps = ceil_div(k, warpgroup::DEPTH);
    auto load = [&](u32 step) {
        if (step < steps) {
            u32 stage = step % STAGES, at = step * warpgroup::DEPTH;
            warpgroup::load<A, LINES, BLOCK>(tiles_of_a + stage * A_BYTES, a, first_row, m, at, k, lda);
            warpgroup::load<B, COLUMNS, BLOCK>(tiles_of_b + stage * B_BYTES, b, first_column, n, at, k, ldb);
        }
        cp_async_commit();
    };
    for (u32 step = 0; step < STAGES - 2; step++) load(step);
    warpgroup::Sums<PARTS> sums;
    for (u32 step = 0; step < steps; step++) {
        // This thread's copies for `step` are there, and products may see them; after the barrier everybody's.
        cp_async_wait<STAGES - 3>();
        proxy_fence();
        block_sync();
        sums.template add<A, B>(tiles_of_a + step % STAGES * A_BYTES, own, tiles_of_b + step % STAGES * B_BYTES);
        // Every thread has waited, before the barrier, for the products of two steps ago: their stage is the one that is filled now. Those of the step
        // before may still run.
        load(step + STAGES - 2);
        wgmma_wait<1>(sums.values);
    }
    wgmma_wait<0>(sums.values);
    sums.store(c + static_cast<u64>(blockIdx.z) * m * n, bias, first_row + own, m, first_column, n);
}

#define MATMUL_WGMMA(rung, PARTS, orders, A, B, out, Out)                                                                                 \
    extern "C" __global__ void __launch_bounds__(BLOCK, 1)                                                                                \
        matmul_##rung##_##orders##_##out(Out* c, const bf16* a, const bf16* b, const bf16* bias, View a_batch, View b_batch, u32 batch,   \
                                         u32 m, u32 n, u32 k, u32 lda, u32 ldb) {                                                         \
        if (blockIdx.z < batch) matmul_wgmma<PARTS, tile::A, tile::B>(c, a, b, bias, a_batch, b_batch, m, n, k, lda, ldb);                \
    }                                                                                                                                     \
    KERNEL(matmul_##rung##_##orders##_##out)
#define MATMUL_ORDERS(rung, PARTS, out, Out)                 \
    MATMUL_WGMMA(rung, PARTS, nn, ALONG, ACROSS, out, Out)   \
    MATMUL_WGMMA(rung, PARTS, nt, ALONG, ALONG, out, Out)    \
    MATMUL_WGMMA(rung, PARTS, tn, ACROSS, ACROSS, out, Out)  \
    MATMUL_WGMMA(rung, PARTS, tt, ACROSS, ALONG, out, Out)

MATMUL_ORDERS(wgmma, 1, f32, float)
MATMUL_ORDERS(wgmma, 1, bf16, bf16)
MATMUL_ORDERS(wide, 2, f32, float)
MATMUL_ORDERS(wide, 2, bf16, bf16)
#endif
