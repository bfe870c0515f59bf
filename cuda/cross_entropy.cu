// cross_entropy: loss[r] = ln Σ_v exp(logits[r, v]) − logits[r, labels[r]] and the logarithm, lse[r], in f32. Rows whose label is `ignore` are not
// read and give 0. Any other label outside 0..n is a fault.
//
// The ladder:
//   cross_entropy_*  a block a row, which it reads once: each thread has a maximum of its own and a sum relative to it (Milakov & Gimelshein 2018)
#include "common/rows.cuh"

// Grid `rows`, block 256, BLOCK_REDUCE_BYTES of shared memory.
template <class T>
__device__ inline void cross_entropy(float* loss, float* lse, const T* logits, const i32* labels, u32* fault, const Rows& rows, u32 n, u32 number,
                                     i32 ignore) {
    DYNAMIC_SHARED(shared);
    float* scratch = reinterpret_cast<float*>(shared);
    u32 row = blockIdx.x;
    i32 label = labels[row];
    bool known = label >= 0 && static_cast<u32>(label) < n;
    if (label == ignore || !known) {
        if (threadIdx.x == 0) {
            loss[row] = lse[row] = 0.0f;
            if (label != ignore) report(fault, number, row, static_cast<u32>(label));
        }
        return;
    }
    Line<T> line = line_of(logits, rows, row);
    float largest = -infinity(), sum = 0.0f;
    row_each(
        n,
        [&](u32, float v) {
            // One exponential an element: what is there shrinks, or what is added does. NaN shows in the sum.
            if (v > largest) {
                sum = sum * expf(largest - v) + 1.0f;
                largest = v;
            } else {
                sum += v == -infinity() ? 0.0f : expf(v - largest);
            }
        },
        line);
    float all = block_reduce_max(largest, scratch);
    sum = block_reduce_sum(largest == -infinity() ? sum : sum * expf(largest - all), scratch);
    if (threadIdx.x == 0) {
        float log_sum = logf(sum);
        lse[row] = all + log_sum;
        // Not lse − logit: where the label is the largest, its small loss keeps all its digits.
        loss[row] = (all - to_f32(line.data[static_cast<u64>(label) * line.step])) + log_sum;
    }
}

#define CROSS_ENTROPY(suffix, T)                                                                                             \
    extern "C" __global__ void __launch_bounds__(256)                                                                        \
        cross_entropy_##suffix(float* loss, float* lse, const T* logits, const i32* labels, u32* fault, Rows rows, u32 n,    \
                               u32 number, i32 ignore) {                                                                     \
        cross_entropy(loss, lse, logits, labels, fault, rows, n, number, ignore);                                            \
    }                                                                                                                        \
    KERNEL(cross_entropy_##suffix)

FOR_FLOATS(CROSS_ENTROPY)
