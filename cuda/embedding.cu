// embedding: y[i] = table[ids[i]] for `count` ids; rows of `row_bytes` bytes of any type. An id that is not below `rows` copies nothing and
// puts its place, counted from 1, into `bad` (of several one); `bad` is 0 before the launch.
//
// The ladder:
//   embedding_2   a warp a row, 2 bytes a lane and step: any rows of 2- or 4-byte values
//   embedding_16  16 bytes a lane and step: rows and tables 16-byte aligned
#include "common/prelude.cuh"

// Grid ⌈count/4⌉, block 128.
template <class Part>
__device__ inline void embedding(Part* y, const Part* table, const u32* ids, u32* bad, u32 count, u32 rows, u32 row_bytes) {
    u32 i = blockIdx.x * (blockDim.x / WARP_SIZE) + warp_id();
    if (i >= count) return;
    u32 id = ids[i];
    if (id >= rows) {
        if (lane_id() == 0) *bad = i + 1;
        return;
    }
    u32 parts = row_bytes / sizeof(Part);
    y += static_cast<u64>(i) * parts;
    table += static_cast<u64>(id) * parts;
    for (u32 part = lane_id(); part < parts; part += WARP_SIZE) y[part] = table[part];
}

#define EMBEDDING(name, Part)                                                                                            \
    extern "C" __global__ void __launch_bounds__(128)                                                                    \
        name(Part* y, const Part* table, const u32* ids, u32* bad, u32 count, u32 rows, u32 row_bytes) {                 \
        embedding(y, table, ids, bad, count, rows, row_bytes);                                                           \
    }                                                                                                                    \
    KERNEL(name)

EMBEDDING(embedding_2, u16)
EMBEDDING(embedding_16, u32x4)
