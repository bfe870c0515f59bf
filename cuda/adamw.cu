// adamw: one step of Adam with decoupled weight decay, in place, in torch's order (engine/src/ops/adamw.rs).
//
// The ladder:
//   adamw_*  as sgd
#include "common/optimiser.cuh"

#define ADAMW(p_suffix, P, g_suffix, G)                                                                                           \
    extern "C" __global__ void __launch_bounds__(256)                                                                             \
        adamw_##p_suffix##_##g_suffix(P* p, float* m, float* v, const G* g, View p_view, View m_view, View v_view, View g_view,   \
                                      AdamWFactors factors, u32 count) {                                                          \
        auto step = [=](float& value, float& first, float& second, float& gradient) {                                             \
            factors.step(value, first, second, gradient * factors.grad_scale);                                                    \
        };                                                                                                                        \
        update_elements(count, step, Target<P>{p, p_view, true}, Target<float>{m, m_view, true}, Target<float>{v, v_view, true},  \
                        Target<G>{const_cast<G*>(g), g_view, false});                                                             \
    }                                                                                                                             \
    KERNEL(adamw_##p_suffix##_##g_suffix)

FOR_OPTIMISERS(ADAMW)
