// y = a·b (+ bias) for a of few rows
#include "common/matmul.wgsl"
#include "common/gemv.wgsl"
