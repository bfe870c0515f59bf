// adamw8bit: one step of AdamW whose moments are 8-bit codes relative to the largest magnitude of their block of 256 (Dettmers et al. 2022): decoded,
// updated in f32, used for the step as computed, and encoded again. `tables` has both maps, 256 rising values each, the signed one first.
//
// The ladder:
//   adamw8bit_*  a block of threads a block of elements: moments stay in registers between the two maxima and the codes
#include "common/optimiser.cuh"
#include "common/quantised.cuh"
#include "common/reduce.cuh"

// Grid ⌈count/256⌉, block 256, BLOCK_REDUCE_BYTES of shared memory.
template <class P, class G>
__device__ inline void adamw8bit(P* p, u8* m_codes, u8* v_codes, float* absmax_m, float* absmax_v, const G* g, const float* tables,
                                 const AdamWFactors& factors, u32 count) {
    DYNAMIC_SHARED(shared);
    float* scratch = reinterpret_cast<float*>(shared);
    u64 i = static_cast<u64>(blockIdx.x) * 256 + threadIdx.x;
    bool there = i < count;
    float m = 0.0f, v = 0.0f;
    if (there) {
        float old = to_f32(p[i]), value = old, gradient = to_f32(g[i]) * factors.grad_scale;
        m = tables[m_codes[i]] * absmax_m[blockIdx.x];
        v = tables[256 + v_codes[i]] * absmax_v[blockIdx.x];
        factors.step(value, m, v, gradient);
        // An element without a sound gradient keeps its value and loses its moments; anywhere else it would make the whole block NaN.
        if (fabsf(gradient * gradient) < infinity()) {
            from_f32(p[i], value);
        } else {
            m = v = 0.0f;
        }
    }
    float most_m = block_reduce_max(fabsf(m), scratch), most_v = block_reduce_max(fabsf(v), scratch);
    auto encode = [](const float* map, float x, float most) {
        // A block of zeros is 0 whatever it is divided by.
        return static_cast<u8>(nearest_entry(x / (most > 0.0f ? most : 1.0f), 256, [=](u32 k) { return (map[k] + map[k + 1]) * 0.5f; }));
    };
    if (there) {
        m_codes[i] = encode(tables, m, most_m);
        v_codes[i] = encode(tables + 256, v, most_v);
    }
    if (threadIdx.x == 0) {
        absmax_m[blockIdx.x] = most_m;
        absmax_v[blockIdx.x] = most_v;
    }
}

#define ADAMW8BIT(p_suffix, P, g_suffix, G)                                                                                          \
    extern "C" __global__ void __launch_bounds__(256)                                                                                \
        adamw8bit_##p_suffix##_##g_suffix(P* p, u8* m, u8* v, float* absmax_m, float* absmax_v, const G* g, const float* tables,     \
                                          AdamWFactors factors, u32 count) {                                                         \
        adamw8bit(p, m, v, absmax_m, absmax_v, g, tables, factors, count);                                                           \
    }                                                                                                                                \
    KERNEL(adamw8bit_##p_suffix##_##g_suffix)

FOR_OPTIMISERS(ADAMW8BIT)
