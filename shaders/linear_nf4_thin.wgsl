// As linear_nf4.wgsl for few rows
#include "common/linear_nf4.wgsl"
#include "common/gemv.wgsl"
