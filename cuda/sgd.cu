// sgd: b = momentum · b + (grad_scale · g + weight_decay · p), p −= lr · b, in place; without a buffer, b is the gradient alone.
//
// The ladder:
//   sgd_*  four elements a thread where all views are dense, one elsewhere (common/optimiser.cuh)
#include "common/optimiser.cuh"

#define SGD(p_suffix, P, g_suffix, G)                                                                                             \
    extern "C" __global__ void __launch_bounds__(256)                                                                             \
        sgd_##p_suffix##_##g_suffix(P* p, float* b, const G* g, View p_view, View b_view, View g_view, u32 count, float grad_scale, \
                                    float weight_decay, float momentum, float minus_lr) {                                         \
        auto step = [=](float& value, float& buffer, float& gradient) {                                                           \
            gradient = gradient * grad_scale + weight_decay * value;                                                              \
            buffer = b ? momentum * buffer + gradient : gradient;                                                                 \
            value += minus_lr * buffer;                                                                                           \
        };                                                                                                                        \
        update_elements(count, step, Target<P>{p, p_view, true}, Target<float>{b, b_view, true},                                  \
                        Target<G>{const_cast<G*>(g), g_view, false});                                                             \
    }                                                                                                                             \
    KERNEL(sgd_##p_suffix##_##g_suffix)

FOR_OPTIMISERS(SGD)
