// The small products of a low-rank adapter, for few rows
#include "common/lora.wgsl"
#include "common/gemv.wgsl"
