// What attention and its gradients share. Work goes by tiles of 32 queries and 32 keys and by chunks of 32 elements of a
// head, in workgroups of 256: invocation t has row t / 8 of a tile and its columns t % 8, + 8, + 16, + 24.
#const CAUSAL = false
// Chunks of a head.
#const CHUNKS = 2u
#include "common/math.wgsl"

// A tensor [B, S, H, D].
struct Strided {
    at: u32,
    batch: u32,
    row: u32,
    head: u32,
    step: u32,
    // Uniforms hold structs in multiples of 16 bytes.
    unused0: u32,
    unused1: u32,
    unused2: u32,
}

struct Params {
    q: Strided,
    k: Strided,
    v: Strided,
    g: Strided,
    mask_at: u32,
    mask_batch: u32,
    mask_step: u32,
    sq: u32,
    sk: u32,
    heads: u32,
    // Query heads of a key head.
    per_key: u32,
    d: u32,
    scale: f32,
}
#params

// Rows are 33 apart, so that columns lie in different banks.
const PITCH = 33u;
var<workgroup> left: array<f32, 32u * PITCH>;
var<workgroup> right: array<f32, 32u * PITCH>;
var<workgroup> scores: array<f32, 32u * PITCH>;

fn place(s: Strided, b: u32, row: u32, head: u32, d: u32) -> u32 {
    return s.at + b * s.batch + row * s.row + head * s.head + d * s.step;
}

// Keys that query i sees, as if none were masked.
fn seen_keys(i: u32) -> u32 {
    if (!CAUSAL) {
        return p.sk;
    }
    return u32(clamp(i32(i) + 1 + i32(p.sk) - i32(p.sq), 0, i32(p.sk)));
}

fn visible(b: u32, i: u32, key: u32) -> bool {
    if (i >= p.sq || key >= seen_keys(i)) {
        return false;
    }
    if (MASK_BOUND) {
        return load_mask(p.mask_at + b * p.mask_batch + key * p.mask_step) != 0u;
    }
    return true;
}
