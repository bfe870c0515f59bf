// linear_nf4_grad: dx = dy · W + dropout(u · a) for dy [rows, outer], a 4-bit weight W [outer, inner] (common/quantised.cuh), and of an adapter
// u [rows, rank] = dy · (scale · B) and a [rank, inner], both of dy's type. The gradients of the adapter's factors are products of lora.cu.
//
// The ladder:
//   linear_nf4_grad_tile_*   any sizes and blocks, on the ordinary units. The reference, and the way for f32
//   linear_nf4_grad_mma_*    tensor cores, bf16: as linear_nf4_gemm, with the rows of W along K. The low-rank sums come first and go through the dropout's
//                            mask in registers; the others are added to them
//   linear_nf4_grad_large_*  the same on 128×128
#include "common/dropout.cuh"
#include "common/nf4.cuh"
#include "common/simt.cuh"

// Grid (⌈inner/64⌉, ⌈rows/64⌉), block 256, simt::BYTES of shared memory.
template <class T>
__device__ inline void linear_nf4_grad_tile(T* dx, const T* dy, const Quantised& q, const T* u, const T* a, u32 rows, u32 outer, u32 inner, u32 rank,
                                            Dropout dropout) {
    // The mask takes the low-rank sums alone: they wait in dx, each element with the thread that goes on with it.
    if (rank > 0) {
        simt::product(
            rows, inner, rank, blockIdx.y * simt::TILE, blockIdx.x * simt::TILE, true, false,
            [=](u32 row, u32 i) { return to_f32(u[static_cast<u64>(row) * rank + i]); },
            [=](u32 i, u32 column) { return to_f32(a[static_cast<u64>(i) * inner + column]); },
            [=](u32 row, u32 column, float sum) {
                from_f32(dx[static_cast<u64>(row) * inner + column], dropout.of(row * inner + column, sum));
            });
        // The tiles in shared memory are used again.
        block_sync();
    }
    simt::product(
        rows, inner, outer, blockIdx.y * simt::TILE, blockIdx.x * simt::TILE, true, false,
        [=](u32 row, u32 i) { return to_f32(dy[static_cast<u64>(row) * outer + i]); },
        [=](u32 i, u32 column) { return round_as(T(), q.value4(static_cast<u64>(i) * inner + column)); },
        [=](u32 row, u32 column, float sum) {
            T* to = dx + static_cast<u64>(row) * inner + column;
            from_f32(*to, rank > 0 ? sum + to_f32(*to) : sum);
        });
}

#define LINEAR_NF4_GRAD(suffix, T)                                                                                                          \
    extern "C" __global__ void __launch_bounds__(256, 2)                                                                                     \
        linear_nf4_grad_tile_##suffix(T* dx, const T* dy, QUANTISED_POINTERS, const T* u, const T* a, Blocks blocks, u32 rows, u32 outer,   \
                                      u32 inner, u32 rank, u32 low, u32 high, u32 threshold, float keep) {                                  \
        linear_nf4_grad_tile(dx, dy, QUANTISED, u, a, rows, outer, inner, rank, Dropout{low, high, threshold, keep});                       \
    }                                                                                                                                       \
    KERNEL(linear_nf4_grad_tile_##suffix)

FOR_PARAMETERS(LINEAR_NF4_GRAD)

// Grid (⌈inner/LINES_B⌉, ⌈rows/LINES_A⌉), block THREADS; in shared memory three tiles of dy, two of W, nf4::TABLE_BYTES, and three places of 8 bytes a thread.
template <class S>
__device__ inline void linear_nf4_grad_mma(bf16* dx, const bf16* dy, const Quantised& q, const bf16* u, const bf16* a, u32 rows, u32 outer,
                                           u32 inner, u32 rank, Dropout dropout) {
    DYNAMIC_SHARED(shared);
    constexpr u32 STAGES = 3, Y_BYTES = tile::bytes<S::LINES_A>(), W_BYTES = tile::bytes<S::LINES_B>(), PITCH = tile::pitch<tile::ACROSS, S::LINES_B>();
    constexpr u32 PER_ROW = S::LINES_B / 16;
    static_assert(STAGES * Y_BYTES + 2 * W_BYTES + nf4::TABLE_BYTES + STAGES * S::THREADS * 8 == (S::THREADS == 128 ? 30720 : 59392),
                  "as engine/src/cuda/linear_nf4.rs launches it");
    static_assert(S::THREADS == PER_ROW * tile::DEPTH, "sixteen codes a thread");
    u32 tiles_of_y = smem_u32(shared);
    u8 *tiles_of_w = shared + STAGES * Y_BYTES, *codes = tiles_of_w + 2 * W_BYTES + nf4::TABLE_BYTES;
    nf4::Table table = nf4::Table::spread(tiles_of_w + 2 * W_BYTES, q.table);
    u32 first_row = blockIdx.y * S::LINES_A, first_column = blockIdx.x * S::LINES_B;
    tile::Sums<S> sums;
    for (u32 at = 0; at < rank; at += tile::DEPTH) {
        block_sync();
        nf4::fill_any<S::LINES_A, S::THREADS>(shared, first_row, rows, at, rank, [=](u64 place) { return u[place]; });
        tile::load<tile::ACROSS, S::LINES_B, S::THREADS>(smem_u32(tiles_of_w), a, first_column, inner, at, rank, inner);
        cp_async_commit();
        cp_async_wait<0>();
        block_sync();
        sums.template add<tile::ALONG, tile::ACROSS>(tiles_of_y, smem_u32(tiles_of_w));
    }
    if (rank > 0 && (dropout.threshold > 0 || dropout.scale != 1.0f)) {
        sums.each([=](float& sum, u32 row, u32 column) { sum = dropout.of((first_row + row) * inner + first_column + column, sum); });
    }
    // The table is there, and nobody reads the tiles any more.
    block_sync();

    u32 row = threadIdx.x / PER_ROW, part = threadIdx.x % PER_ROW * 16;
    auto place = [=](u32 at) { return static_cast<u64>(at + row) * inner + first_column + part; };
    auto inside = [=](u32 at) { return first_column + part < inner && at + row < outer; };
    nf4::Stream<S::THREADS> weights(q, codes);
    u32 steps = ceil_div(outer, tile::DEPTH);
    auto load = [&](u32 step) {
        if (step < steps) {
            u32 at = step * tile::DEPTH;
            tile::load<tile::ALONG, S::LINES_A, S::THREADS>(tiles_of_y + step % STAGES * Y_BYTES, dy, first_row, rows, at, outer, outer);
            weights.load(step % STAGES, place(at), inside(at));
        }
        cp_async_commit();
    };
    load(0);
    load(1);
    weights.fetch_scale(place(0), inside(0));
    for (u32 step = 0; step < steps; step++) {
        cp_async_wait<1>();
        // This thread's own codes are there. The tile was read last two steps ago, before the barrier of the last.
        weights.expand(step % STAGES, tiles_of_w + step % 2 * W_BYTES + row * PITCH + part * 2, table);
        u32 next = (step + 1) * tile::DEPTH;
        weights.fetch_scale(place(next), inside(next));
        block_sync();
        load(step + 2);
        sums.template add<tile::ALONG, tile::ACROSS>(tiles_of_y + step % STAGES * Y_BYTES, smem_u32(tiles_of_w + step % 2 * W_BYTES));
    }
    sums.store(dx, nullptr, first_row, rows, first_column, inner);
}

#define LINEAR_NF4_GRAD_MMA(rung, S)                                                                                                     \
    extern "C" __global__ void __launch_bounds__(tile::S::THREADS)                                                                       \
        linear_nf4_grad_##rung##_bf16(bf16* dx, const bf16* dy, QUANTISED_POINTERS, const bf16* u, const bf16* a, Blocks blocks,         \
                                      u32 rows, u32 outer, u32 inner, u32 rank, u32 low, u32 high, u32 threshold, float keep) {          \
        linear_nf4_grad_mma<tile::S>(dx, dy, QUANTISED, u, a, rows, outer, inner, rank, Dropout{low, high, threshold, keep});            \
    }                                                                                                                                    \
    KERNEL(linear_nf4_grad_##rung##_bf16)

LINEAR_NF4_GRAD_MMA(mma, Small)
LINEAR_NF4_GRAD_MMA(large, Large)
