// scatter_rows: y = base, but row index[j] is replacements[j]. An index that is not below `rows`, or stands there twice, is a fault.
//
// The ladder:
//   scatter_rows_index   source[index[j]] = j + 1, so that each row knows what it takes; `source` is zero before
//   scatter_rows_2, _4   a block a row of the result, which is read once from where it comes from. Bytes of a value are in the name
#include "common/layout.cuh"

extern "C" __global__ void __launch_bounds__(256)
    scatter_rows_index(u32* source, const u32* index, u32* fault, u32 count, u32 rows, u32 number, u32 twice_number) {
    for (u32 j = blockIdx.x * blockDim.x + threadIdx.x; j < count; j += gridDim.x * blockDim.x) {
        u32 row = index[j];
        if (row >= rows) {
            report(fault, number, j, row);
        } else if (atomic_cas_u32(source + row, 0, j + 1) != 0) {
            report(fault, twice_number, j, row);
        }
    }
}
KERNEL(scatter_rows_index)

// Grid `rows`, block 256.
template <class T>
__device__ inline void scatter_rows(T* y, const T* base, const T* replacements, const u32* source, const Rows& base_rows,
                                    const Rows& replacement_rows, u32 n) {
    constexpr u32 LANES = 16 / sizeof(T);
    u32 row = blockIdx.x, from = source[row];
    const T* x = from == 0 ? base + base_rows.rows.at(row) : replacements + replacement_rows.rows.at(from - 1);
    u32 step = from == 0 ? base_rows.step : replacement_rows.step;
    y += static_cast<u64>(row) * n;
    if (step == 1 && n % LANES == 0 && aligned(x, 16) && aligned(y, 16)) {
        for (u32 at = threadIdx.x * LANES; at < n; at += blockDim.x * LANES) store16(y + at, load16(x + at));
        return;
    }
    for (u32 at = threadIdx.x; at < n; at += blockDim.x) y[at] = x[static_cast<u64>(at) * step];
}

#define SCATTER_ROWS(bytes, T)                                                                                                       \
    extern "C" __global__ void __launch_bounds__(256)                                                                                \
        scatter_rows_##bytes(T* y, const T* base, const T* replacements, const u32* source, Rows base_rows, Rows replacement_rows,   \
                             u32 n) {                                                                                                \
        scatter_rows(y, base, replacements, source, base_rows, replacement_rows, n);                                                 \
    }                                                                                                                                \
    KERNEL(scatter_rows_##bytes)

SCATTER_ROWS(2, u16)
SCATTER_ROWS(4, u32)
