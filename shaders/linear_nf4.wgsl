// y = x·Wᵀ (+ bias) (+ h·(scale·B)ᵀ) for a 4-bit W
#include "common/linear_nf4.wgsl"
#include "common/gemm.wgsl"
