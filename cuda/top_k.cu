// top_k: the k largest elements of each row in descending order, as f32, and their places; ordered as in argmax.
//
// The ladder:
//   top_k_*        a block a row; each of k passes finds the first element behind the last one found, reading the row again
//   top_k_split_*  long rows in shares of 2048, a block each, which reads its share once into registers and takes the first out k times;
//                  top_k_merge_* takes the k first of all the shares' candidates
#include "common/rows.cuh"

// Grid `rows`, block 256, BLOCK_REDUCE_BYTES of shared memory.
template <class T>
__device__ inline void top_k(float* values, u32* indices, const T* x, const Rows& rows, u32 n, u32 k) {
    DYNAMIC_SHARED(shared);
    Line<T> line = line_of(x, rows, blockIdx.x);
    Ranked last{0, 0};
    for (u32 j = 0; j < k; j++) {
        Ranked best{0, NO_PLACE};
        row_each(
            n,
            [&best, last, j](u32 i, float v) {
                Ranked here{order_key(v), i};
                if ((j == 0 || last.before(here)) && here.before(best)) best = here;
            },
            line);
        last = block_reduce_first(best, reinterpret_cast<u32*>(shared));
        if (threadIdx.x == 0) {
            u64 at = static_cast<u64>(blockIdx.x) * k + j;
            indices[at] = last.place;
            values[at] = to_f32(line.data[static_cast<u64>(last.place) * line.step]);
        }
    }
}

#define TOP_K(suffix, T)                                                                                                        \
    extern "C" __global__ void __launch_bounds__(256)                                                                           \
        top_k_##suffix(float* values, u32* indices, const T* x, Rows rows, u32 n, u32 k) { top_k(values, indices, x, rows, n, k); } \
    KERNEL(top_k_##suffix)

FOR_FLOATS(TOP_K)

constexpr u32 SHARE = 2048, THREADS = 256;

// Keys and places [rows, parts, k] of each share's first, in order; a share with fewer has NO_PLACE behind them.
// Grid (parts = ⌈n/2048⌉, rows), block 256, BLOCK_REDUCE_BYTES of shared memory.
template <class T>
__device__ inline void top_k_split(u32* keys, u32* places, const T* x, const Rows& rows, u32 n, u32 k) {
    DYNAMIC_SHARED(shared);
    Line<T> line = line_of(x, rows, blockIdx.y);
    Ranked own[SHARE / THREADS];
#pragma unroll
    for (u32 i = 0; i < SHARE / THREADS; i++) {
        u32 place = blockIdx.x * SHARE + i * THREADS + threadIdx.x;
        own[i] = place < n ? Ranked{order_key(to_f32(line.data[static_cast<u64>(place) * line.step])), place} : Ranked{0, NO_PLACE};
    }
    u64 to = (static_cast<u64>(blockIdx.y) * gridDim.x + blockIdx.x) * k;
    for (u32 j = 0; j < k; j++) {
        Ranked best = own[0];
#pragma unroll
        for (u32 i = 1; i < SHARE / THREADS; i++) best = own[i].before(best) ? own[i] : best;
        best = block_reduce_first(best, reinterpret_cast<u32*>(shared));
#pragma unroll
        for (u32 i = 0; i < SHARE / THREADS; i++) own[i] = own[i].place == best.place ? Ranked{0, NO_PLACE} : own[i];
        if (threadIdx.x == 0) keys[to + j] = best.key, places[to + j] = best.place;
    }
}

// Grid `rows`, block 256, BLOCK_REDUCE_BYTES of shared memory. `count` candidates a row.
template <class T>
__device__ inline void top_k_merge(float* values, u32* indices, const T* x, const u32* keys, const u32* places, const Rows& rows, u32 count, u32 k) {
    DYNAMIC_SHARED(shared);
    Line<T> line = line_of(x, rows, blockIdx.x);
    keys += static_cast<u64>(blockIdx.x) * count;
    places += static_cast<u64>(blockIdx.x) * count;
    Ranked last{0, 0};
    for (u32 j = 0; j < k; j++) {
        Ranked best{0, NO_PLACE};
        for (u32 i = threadIdx.x; i < count; i += THREADS) {
            Ranked here{keys[i], places[i]};
            if ((j == 0 || last.before(here)) && here.before(best)) best = here;
        }
        last = block_reduce_first(best, reinterpret_cast<u32*>(shared));
        if (threadIdx.x == 0) {
            u64 at = static_cast<u64>(blockIdx.x) * k + j;
            indices[at] = last.place;
            values[at] = to_f32(line.data[static_cast<u64>(last.place) * line.step]);
        }
    }
}

#define TOP_K_PARTS(suffix, T)                                                                                                            \
    extern "C" __global__ void __launch_bounds__(256)                                                                                     \
        top_k_split_##suffix(u32* keys, u32* places, const T* x, Rows rows, u32 n, u32 k) { top_k_split(keys, places, x, rows, n, k); }   \
    KERNEL(top_k_split_##suffix)                                                                                                          \
    extern "C" __global__ void __launch_bounds__(256)                                                                                     \
        top_k_merge_##suffix(float* values, u32* indices, const T* x, const u32* keys, const u32* places, Rows rows, u32 count, u32 k) {  \
        top_k_merge(values, indices, x, keys, places, rows, count, k);                                                                    \
    }                                                                                                                                     \
    KERNEL(top_k_merge_##suffix)

FOR_FLOATS(TOP_K_PARTS)
