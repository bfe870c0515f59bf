// embedding: y[i] = table[ids[i]] for `count` ids; rows of n values, whose type does not matter. An id that is not below `rows` is a fault and gives
// zeros.
//
// The ladder:
//   embedding_2, _4  a warp a row; 16 bytes a lane and step where rows lie so, else one value. Bytes of a value are in the name
#include "common/layout.cuh"

// Grid ⌈count/4⌉, block 128.
template <class T>
__device__ inline void embedding(T* y, const T* table, const u32* ids, u32* fault, u32 count, u32 rows, u32 n, u32 down, u32 step, u32 number) {
    constexpr u32 LANES = 16 / sizeof(T);
    u32 i = blockIdx.x * (blockDim.x / WARP_SIZE) + warp_id();
    if (i >= count) return;
    u32 id = ids[i];
    bool known = id < rows;
    if (!known && lane_id() == 0) report(fault, number, i, id);
    y += static_cast<u64>(i) * n;
    table += known ? static_cast<u64>(id) * down : 0;
    if (known && step == 1 && n % LANES == 0 && aligned(y, 16) && aligned(table, 16)) {
        for (u32 at = lane_id() * LANES; at < n; at += WARP_SIZE * LANES) store16(y + at, load16(table + at));
        return;
    }
    for (u32 at = lane_id(); at < n; at += WARP_SIZE) y[at] = known ? table[static_cast<u64>(at) * step] : T(0);
}

#define EMBEDDING(bytes, T)                                                                                                       \
    extern "C" __global__ void __launch_bounds__(128)                                                                             \
        embedding_##bytes(T* y, const T* table, const u32* ids, u32* fault, u32 count, u32 rows, u32 n, u32 down, u32 step,       \
                          u32 number) {                                                                                           \
        embedding(y, table, ids, fault, count, rows, n, down, step, number);                                                      \
    }                                                                                                                             \
    KERNEL(embedding_##bytes)

EMBEDDING(2, u16)
EMBEDDING(4, u32)
