// y = a·b (+ bias)
#include "common/matmul.wgsl"
#include "common/gemm.wgsl"
