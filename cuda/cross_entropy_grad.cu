// cross_entropy_grad: dlogits[r, v] = g[r] · (exp(logits[r, v] − lse[r]) − [v = labels[r]]), 0 in ignored rows; in f32, rounded once. Probabilities are
// computed again from `lse`: none were stored.
//
// The ladder:
//   cross_entropy_grad_*  a block a row, one pass
#include "common/rows.cuh"

// Grid `rows`, block 256.
template <class T>
__device__ inline void cross_entropy_grad(T* dlogits, const T* logits, const i32* labels, const float* lse, const float* g, u32* fault,
                                          const Rows& rows, u32 n, u32 number, i32 ignore) {
    u32 row = blockIdx.x;
    i32 label = labels[row];
    bool known = label >= 0 && static_cast<u32>(label) < n, counts = label != ignore && known;
    if (!known && label != ignore && threadIdx.x == 0) report(fault, number, row, static_cast<u32>(label));
    dlogits += static_cast<u64>(row) * n;
    if (!counts) {
        // What a row that does not count holds may be anything.
        for (u32 i = threadIdx.x; i < n; i += blockDim.x) from_f32(dlogits[i], 0.0f);
        return;
    }
    float log_sum = lse[row], up = g[row];
    u32 target = static_cast<u32>(label);
    auto slope = [=](u32 i, float v) { return up * (expf(v - log_sum) - (i == target ? 1.0f : 0.0f)); };
    row_map(dlogits, n, slope, line_of(logits, rows, row));
}

#define CROSS_ENTROPY_GRAD(suffix, T)                                                                                          \
    extern "C" __global__ void __launch_bounds__(256)                                                                          \
        cross_entropy_grad_##suffix(T* dlogits, const T* logits, const i32* labels, const float* lse, const float* g, u32* fault, \
                                    Rows rows, u32 n, u32 number, i32 ignore) {                                                \
        cross_entropy_grad(dlogits, logits, labels, lse, g, fault, rows, n, number, ignore);                                   \
    }                                                                                                                          \
    KERNEL(cross_entropy_grad_##suffix)

FOR_FLOATS(CROSS_ENTROPY_GRAD)
