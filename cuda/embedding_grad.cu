// embedding_grad: y[i] = Σ g[j] over the places j where ids[j] = i; y is zero before. Each sum runs in f32 in the order of the places and is rounded
// once: no atomics, the same bits every time.
//
// The ladder:
//   embedding_grad_*  a block a place and 1024 columns: the first place of an id adds up all of them. 256 places at a time are compared with the id, those
//                     that have it are listed in order, and their rows are added, four columns a thread and several rows under way. The comparisons,
//                     count² in all, are spread over the device
#include "common/layout.cuh"
#include "common/reduce.cuh"

constexpr u32 THREADS = 256, COLUMNS = 4, WARPS = THREADS / WARP_SIZE;

__device__ inline u32 count_bits(u32 v) {
    v -= v >> 1 & 0x55555555u;
    v = (v & 0x33333333u) + (v >> 2 & 0x33333333u);
    return ((v + (v >> 4)) & 0x0f0f0f0fu) * 0x01010101u >> 24;
}

// Grid (count, ⌈n/1024⌉), block 256, BLOCK_REDUCE_BYTES + 1056 bytes of shared memory.
template <class T>
__device__ inline void embedding_grad(T* y, const u32* ids, const T* g, u32* fault, u32 count, u32 rows, u32 n, u32 number) {
    DYNAMIC_SHARED(shared);
    u32 place = blockIdx.x, id = ids[place];
    float earlier = 0.0f;
    for (u32 j = threadIdx.x; j < place; j += THREADS) earlier = ids[j] == id ? 1.0f : earlier;
    if (block_reduce_max(earlier, reinterpret_cast<float*>(shared)) > 0.0f) return;
    if (id >= rows) {
        if (threadIdx.x == 0 && blockIdx.y == 0) report(fault, number, place, id);
        return;
    }
    u32 *list = reinterpret_cast<u32*>(shared + BLOCK_REDUCE_BYTES), *counts = list + THREADS;
    u32 column = (blockIdx.y * THREADS + threadIdx.x) * COLUMNS;
    bool wide = n % COLUMNS == 0 && aligned(g, COLUMNS * sizeof(T));
    float sums[COLUMNS] = {};
    for (u32 first = place; first < count; first += THREADS) {
        u32 j = first + threadIdx.x;
        bool match = j < count && ids[j] == id;
        u32 votes = ballot(match);
        if (lane_id() == 0) counts[warp_id()] = count_bits(votes);
        block_sync();
        u32 before = 0, total = 0;
#pragma unroll
        for (u32 warp = 0; warp < WARPS; warp++) {
            before += warp < warp_id() ? counts[warp] : 0;
            total += counts[warp];
        }
        if (match) list[before + count_bits(votes & ((1u << lane_id()) - 1))] = j;
        block_sync();
        if (wide && column < n) {
#pragma unroll 4
            for (u32 i = 0; i < total; i++) {
                float values[COLUMNS];
                load_values(values, g + static_cast<u64>(list[i]) * n + column);
#pragma unroll
                for (u32 c = 0; c < COLUMNS; c++) sums[c] += values[c];
            }
        } else {
            for (u32 i = 0; i < total; i++) {
                for (u32 c = 0; c < COLUMNS; c++) sums[c] += column + c < n ? to_f32(g[static_cast<u64>(list[i]) * n + column + c]) : 0.0f;
            }
        }
        // The list is written again.
        block_sync();
    }
    for (u32 c = 0; c < COLUMNS; c++) {
        if (column + c < n) from_f32(y[static_cast<u64>(id) * n + column + c], sums[c]);
    }
}

#define EMBEDDING_GRAD(suffix, T)                                                                                              \
    extern "C" __global__ void __launch_bounds__(256)                                                                          \
        embedding_grad_##suffix(T* y, const u32* ids, const T* g, u32* fault, u32 count, u32 rows, u32 n, u32 number) {        \
        embedding_grad(y, ids, g, fault, count, rows, n, number);                                                              \
    }                                                                                                                          \
    KERNEL(embedding_grad_##suffix)

FOR_FLOATS(EMBEDDING_GRAD)
