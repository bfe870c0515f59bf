// reduce: sum, mean, sum of squares or maximum over some dimensions of x. The launcher splits x into a view of the dimensions that stay and one of those
// that go: element i of what stays and j of what goes lies at kept.at(i) + reduced.at(j). Sums are f32, rounded once.
//
// The ladder:
//   reduce_rows_*     a block per result (and part): threads go over what is reduced, 16 bytes at a time where that is dense
//   reduce_columns_*  32 neighbouring results a block, one a lane, eight warps share what is reduced: for sums over rows, where neighbours in memory
//                     belong to different results
// Both split what is reduced into parts for results that are too few to fill a device; a second launch adds the parts. The order of additions depends
// on the shape and the parts alone.
#include "common/layout.cuh"
#include "common/reduce.cuh"

enum ReduceKind : u32 { SUM, MEAN, SUM_SQUARES, MAX };

struct Reduction {
    u32 kind;

    __device__ float none() const { return kind == MAX ? -infinity() : 0.0f; }
    __device__ float of(float v) const { return kind == SUM_SQUARES ? v * v : v; }
    // NaN stays.
    __device__ float combine(float a, float b) const { return kind != MAX ? a + b : b > a || is_nan(b) ? b : a; }
    __device__ float finish(float v, float divisor) const { return kind == MEAN ? v / divisor : v; }
};

// Grid (kept, parts), block 256, BLOCK_REDUCE_BYTES of shared memory.
template <class U, class T>
__device__ inline void reduce_rows(U* y, const T* x, const View& kept_view, const View& reduced_view, u32 kept, u32 reduced, u32 parts, u32 kind,
                                   float divisor) {
    DYNAMIC_SHARED(shared);
    constexpr u32 LANES = 16 / sizeof(T);
    Reduction reduction{kind};
    // Shares of whole 16 bytes.
    u32 share = ceil_div(ceil_div(reduced, parts), LANES) * LANES;
    u64 begin = static_cast<u64>(blockIdx.y) * share, end = begin + share < reduced ? begin + share : reduced;
    x += kept_view.at(blockIdx.x);
    float v = reduction.none();
    u64 at = begin;
    if (reduced_view.dense() && aligned(x, 16)) {
        u64 whole = end > begin ? begin + (end - begin) / LANES * LANES : begin;
        for (u64 i = begin + threadIdx.x * LANES; i < whole; i += blockDim.x * LANES) {
            float values[LANES];
            load_values(values, x + i);
#pragma unroll
            for (u32 lane = 0; lane < LANES; lane++) v = reduction.combine(v, reduction.of(values[lane]));
        }
        at = whole;
    }
    for (u64 i = at + threadIdx.x; i < end; i += blockDim.x) {
        v = reduction.combine(v, reduction.of(to_f32(x[reduced_view.at(static_cast<u32>(i))])));
    }
    v = block_reduce(v, reduction.none(), reinterpret_cast<float*>(shared), [=](float a, float b) { return reduction.combine(a, b); });
    if (threadIdx.x == 0) from_f32(y[static_cast<u64>(blockIdx.y) * kept + blockIdx.x], reduction.finish(v, divisor));
}

// Grid (⌈kept/32⌉, parts), block (32, 8), 1024 bytes of shared memory.
template <class U, class T>
__device__ inline void reduce_columns(U* y, const T* x, const View& kept_view, const View& reduced_view, u32 kept, u32 reduced, u32 parts,
                                      u32 kind, float divisor) {
    DYNAMIC_SHARED(shared);
    float* partial = reinterpret_cast<float*>(shared);
    Reduction reduction{kind};
    u32 share = ceil_div(reduced, parts), column = blockIdx.x * 32 + threadIdx.x;
    u64 begin = static_cast<u64>(blockIdx.y) * share, end = begin + share < reduced ? begin + share : reduced;
    float v = reduction.none();
    if (column < kept) {
        x += kept_view.at(column);
        for (u64 i = begin + threadIdx.y; i < end; i += 8) {
            v = reduction.combine(v, reduction.of(to_f32(x[reduced_view.at(static_cast<u32>(i))])));
        }
    }
    partial[threadIdx.y * 32 + threadIdx.x] = v;
    block_sync();
    if (threadIdx.y != 0 || column >= kept) return;
    for (u32 i = 1; i < 8; i++) v = reduction.combine(v, partial[i * 32 + threadIdx.x]);
    from_f32(y[static_cast<u64>(blockIdx.y) * kept + column], reduction.finish(v, divisor));
}

#define REDUCE(t_suffix, T, u_suffix, U)                                                                                               \
    extern "C" __global__ void __launch_bounds__(256)                                                                                  \
        reduce_rows_##t_suffix##_##u_suffix(U* y, const T* x, View kept_view, View reduced_view, u32 kept, u32 reduced, u32 parts,     \
                                            u32 kind, float divisor) {                                                                 \
        reduce_rows(y, x, kept_view, reduced_view, kept, reduced, parts, kind, divisor);                                               \
    }                                                                                                                                  \
    KERNEL(reduce_rows_##t_suffix##_##u_suffix)                                                                                        \
    extern "C" __global__ void __launch_bounds__(256)                                                                                  \
        reduce_columns_##t_suffix##_##u_suffix(U* y, const T* x, View kept_view, View reduced_view, u32 kept, u32 reduced, u32 parts,  \
                                               u32 kind, float divisor) {                                                              \
        reduce_columns(y, x, kept_view, reduced_view, kept, reduced, parts, kind, divisor);                                            \
    }                                                                                                                                  \
    KERNEL(reduce_columns_##t_suffix##_##u_suffix)

REDUCE(f32, float, f32, float)
REDUCE(f32, float, bf16, bf16)
REDUCE(f32, float, f16, f16)
REDUCE(bf16, bf16, f32, float)
REDUCE(bf16, bf16, bf16, bf16)
REDUCE(f16, f16, f32, float)
REDUCE(f16, f16, f16, f16)
