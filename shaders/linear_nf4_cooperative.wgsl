// As linear_nf4.wgsl by cooperative matrices
#include "common/linear_nf4.wgsl"
#include "common/gemm_cooperative.wgsl"
