// adamw8bit: one step of AdamW whose moments are 8-bit codes relative to the largest magnitude of their block of 256 (Dettmers et al. 2022): decoded,
// updated in f32, used for the step as computed, and encoded again. `tables` has both maps, 256 rising values each, the signed one first.
//
// The ladder:
//   adamw8bit_*  a block of threads a block of elements of any number of parameters, by a table in device memory: moments stay in registers between
//                the two maxima and the codes
#include "common/optimiser.cuh"
#include "common/quantised.cuh"
#include "common/reduce.cuh"

// A parameter of a list: its elements, and the first block that works on it.
template <class P, class G>
struct Listed {
    P* p;
    u8 *m, *v;
    float *absmax_m, *absmax_v;
    const G* g;
    u32 count, first_block;
};

// Grid Σ ⌈countᵢ/256⌉, block 256, BLOCK_REDUCE_BYTES of shared memory.
template <class P, class G>
__device__ inline void adamw8bit(const Listed<P, G>* table, const float* tables, const AdamWFactors& factors, u32 entries) {
    DYNAMIC_SHARED(shared);
    float* scratch = reinterpret_cast<float*>(shared);
    const Listed<P, G> one = table[entry_of_block(table, entries)];
    u32 block = blockIdx.x - one.first_block;
    P* p = one.p;
    u8 *m_codes = one.m, *v_codes = one.v;
    const G* g = one.g;
    u64 i = static_cast<u64>(block) * 256 + threadIdx.x;
    bool there = i < one.count;
    float m = 0.0f, v = 0.0f;
    if (there) {
        float old = to_f32(p[i]), value = old, gradient = factors.scaled(to_f32(g[i]));
        m = tables[m_codes[i]] * one.absmax_m[block];
        v = tables[256 + v_codes[i]] * one.absmax_v[block];
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
        one.absmax_m[block] = most_m;
        one.absmax_v[block] = most_v;
    }
}

#define ADAMW8BIT(p_suffix, P, g_suffix, G)                                                                                     \
    extern "C" __global__ void __launch_bounds__(256)                                                                           \
        adamw8bit_##p_suffix##_##g_suffix(const void* table, const float* tables, AdamWFactors factors, u32 entries) {          \
        adamw8bit(static_cast<const Listed<P, G>*>(table), tables, factors, entries);                                           \
    }                                                                                                                           \
    KERNEL(adamw8bit_##p_suffix##_##g_suffix)

FOR_OPTIMISERS(ADAMW8BIT)
