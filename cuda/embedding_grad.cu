// embedding_grad: y[i] = Σ g[j] over the places j where ids[j] = i; y is zero before. Each sum runs in f32 in the order of the places and is rounded
// once: no atomics, the same bits every time.
//
// The ladder:
//   embedding_grad_*  a block a place: the first place of an id adds up all of them. Places are compared with count² reads of ids, which is little
//                     beside the rows for the counts of a training step
#include "common/layout.cuh"
#include "common/reduce.cuh"

// Grid `count`, block 256, BLOCK_REDUCE_BYTES of shared memory.
template <class T>
__device__ inline void embedding_grad(T* y, const u32* ids, const T* g, u32* fault, u32 count, u32 rows, u32 n, u32 number) {
    DYNAMIC_SHARED(shared);
    u32 place = blockIdx.x, id = ids[place];
    float earlier = 0.0f;
    for (u32 j = threadIdx.x; j < place; j += blockDim.x) earlier = ids[j] == id ? 1.0f : earlier;
    if (block_reduce_max(earlier, reinterpret_cast<float*>(shared)) > 0.0f) return;
    if (id >= rows) {
        if (threadIdx.x == 0) report(fault, number, place, id);
        return;
    }
    for (u32 i = threadIdx.x; i < n; i += blockDim.x) {
        float sum = 0.0f;
        for (u32 j = place; j < count; j++) {
            if (ids[j] == id) sum += to_f32(g[static_cast<u64>(j) * n + i]);
        }
        from_f32(y[static_cast<u64>(id) * n + i], sum);
    }
}

#define EMBEDDING_GRAD(suffix, T)                                                                                              \
    extern "C" __global__ void __launch_bounds__(256)                                                                          \
        embedding_grad_##suffix(T* y, const u32* ids, const T* g, u32* fault, u32 count, u32 rows, u32 n, u32 number) {        \
        embedding_grad(y, ids, g, fault, count, rows, n, number);                                                              \
    }                                                                                                                          \
    KERNEL(embedding_grad_##suffix)

FOR_FLOATS(EMBEDDING_GRAD)
