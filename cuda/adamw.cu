// adamw: one step of Adam with decoupled weight decay, in place, in torch's order (engine/src/ops/adamw.rs).
//
// The ladder:
//   adamw_*       as sgd: one parameter that lies anyhow
//   adamw_list_*  any number of contiguous parameters in one launch, by a table in device memory: an adapter has hundreds of small ones
#include "common/optimiser.cuh"

// A contiguous parameter of a list: its elements, and the first block that works on it.
template <class P, class G>
struct Listed {
    P* p;
    float *m, *v;
    const G* g;
    u32 count, first_block;
};

// Elements of a block.
constexpr u32 LIST_ELEMENTS = 4096;

// Grid Σ ⌈countᵢ/4096⌉, block 256.
template <class P, class G>
__device__ inline void adamw_list(const Listed<P, G>* table, const AdamWFactors& factors, u32 entries) {
    const Listed<P, G> one = table[entry_of_block(table, entries)];
    u32 begin = (blockIdx.x - one.first_block) * LIST_ELEMENTS, left = one.count - begin;
    if (left > LIST_ELEMENTS) left = LIST_ELEMENTS;
    P* p = one.p + begin;
    float *m = one.m + begin, *v = one.v + begin;
    const G* g = one.g + begin;
    bool wide = aligned(p, 4 * sizeof(P)) && aligned(m, 16) && aligned(v, 16) && aligned(g, 4 * sizeof(G));
    u32 done = wide ? left / 4 * 4 : 0;
    for (u32 at = threadIdx.x * 4; at < done; at += blockDim.x * 4) {
        float value[4], first[4], second[4], gradient[4];
        load_values(value, p + at);
        load_values(first, m + at);
        load_values(second, v + at);
        load_values(gradient, g + at);
#pragma unroll
        for (u32 lane = 0; lane < 4; lane++) factors.step(value[lane], first[lane], second[lane], factors.scaled(gradient[lane]));
        store_values(p + at, value);
        store_values(m + at, first);
        store_values(v + at, second);
    }
    for (u32 at = done + threadIdx.x; at < left; at += blockDim.x) {
        float value = to_f32(p[at]), first = m[at], second = v[at];
        factors.step(value, first, second, factors.scaled(to_f32(g[at])));
        from_f32(p[at], value);
        m[at] = first;
        v[at] = second;
    }
}

#define ADAMW(p_suffix, P, g_suffix, G)                                                                                           \
    extern "C" __global__ void __launch_bounds__(256)                                                                             \
        adamw_##p_suffix##_##g_suffix(P* p, float* m, float* v, const G* g, View p_view, View m_view, View v_view, View g_view,   \
                                      AdamWFactors factors, u32 count) {                                                          \
        auto step = [=](float& value, float& first, float& second, float& gradient) {                                             \
            factors.step(value, first, second, factors.scaled(gradient));                                                         \
        };                                                                                                                        \
        update_elements(count, step, Target<P>{p, p_view, true}, Target<float>{m, m_view, true}, Target<float>{v, v_view, true},  \
                        Target<G>{const_cast<G*>(g), g_view, false});                                                             \
    }                                                                                                                             \
    KERNEL(adamw_##p_suffix##_##g_suffix)                                                                                         \
    extern "C" __global__ void __launch_bounds__(256)                                                                             \
        adamw_list_##p_suffix##_##g_suffix(const void* table, AdamWFactors factors, u32 entries) {                                \
        adamw_list(static_cast<const Listed<P, G>*>(table), factors, entries);                                                    \
    }                                                                                                                             \
    KERNEL(adamw_list_##p_suffix##_##g_suffix)

FOR_OPTIMISERS(ADAMW)
