// The small products of a low-rank adapter, by tiles
#include "common/lora.wgsl"
#include "common/gemm.wgsl"
