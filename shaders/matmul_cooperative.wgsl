// As matmul.wgsl by cooperative matrices
#include "common/matmul.wgsl"
#include "common/gemm_cooperative.wgsl"
