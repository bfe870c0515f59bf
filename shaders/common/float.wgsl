// Element types that WGSL lacks, by integer arithmetic: no rounding mode and no flushing of subnormal numbers is
// left to the driver.

// The bits of bf16, round to nearest even; NaN keeps a quiet payload.
fn bf16_bits(v: f32) -> u32 {
    let b = bitcast<u32>(v);
    let rounded = (b + 0x7fffu + ((b >> 16u) & 1u)) >> 16u;
    return select(rounded, (b >> 16u) | 0x40u, (b & 0x7fffffffu) > 0x7f800000u);
}

// The bits of f16, round to nearest even.
fn f16_bits(v: f32) -> u32 {
    let b = bitcast<u32>(v);
    let sign = (b >> 16u) & 0x8000u;
    let a = b & 0x7fffffffu;
    if (a >= 0x47800000u) {
        // From 2^16 on: infinity, or NaN.
        return sign | select(0x7c00u, 0x7e00u, a > 0x7f800000u);
    }
    if (a < 0x38800000u) {
        // Below 2^-14: a multiple of 2^-24.
        let e = a >> 23u;
        if (e < 102u) {
            return sign;
        }
        let m = (a & 0x7fffffu) | 0x800000u;
        let s = 126u - e;
        let q = m >> s;
        let rest = m & ((1u << s) - 1u);
        let half = 1u << (s - 1u);
        let up = rest > half || (rest == half && (q & 1u) == 1u);
        return sign | (q + select(0u, 1u, up));
    }
    return sign | ((a + 0xfffu + ((a >> 13u) & 1u) - 0x38000000u) >> 13u);
}

// The value of f16 bits, exact.
fn f16_value(h: u32) -> f32 {
    let sign = (h & 0x8000u) << 16u;
    let e = (h >> 10u) & 31u;
    let m = h & 0x3ffu;
    if (e == 0u) {
        return bitcast<f32>(bitcast<u32>(f32(m) * 5.9604644775390625e-8) | sign);
    }
    return bitcast<f32>(sign | (select(e + 112u, 255u, e == 31u) << 23u) | (m << 13u));
}

// Eight neighbours.
struct Oct {
    lo: vec4<f32>,
    hi: vec4<f32>,
}

// Four bf16 from two words.
fn bf16_quad(a: u32, b: u32) -> vec4<f32> {
    return bitcast<vec4<f32>>(vec4<u32>(a << 16u, a & 0xffff0000u, b << 16u, b & 0xffff0000u));
}

fn f16_quad(a: u32, b: u32) -> vec4<f32> {
    return vec4<f32>(f16_value(a & 0xffffu), f16_value(a >> 16u), f16_value(b & 0xffffu), f16_value(b >> 16u));
}

fn oct_dot(a: Oct, b: Oct) -> f32 {
    return dot(a.lo, b.lo) + dot(a.hi, b.hi);
}

// Compilers may take it that no NaN and no infinity occurs, and leave comparisons with them out; bits they cannot.
fn is_nan(v: f32) -> bool {
    return (bitcast<u32>(v) & 0x7fffffffu) > 0x7f800000u;
}

fn is_finite(v: f32) -> bool {
    return (bitcast<u32>(v) & 0x7f800000u) != 0x7f800000u;
}

fn is_minus_infinity(v: f32) -> bool {
    return bitcast<u32>(v) == 0xff800000u;
}

// Minus infinity and NaN cannot be written as constants.
fn minus_infinity() -> f32 {
    var bits = 0xff800000u;
    return bitcast<f32>(bits);
}

fn infinity() -> f32 {
    var bits = 0x7f800000u;
    return bitcast<f32>(bits);
}

fn nan() -> f32 {
    var bits = 0x7fc00000u;
    return bitcast<f32>(bits);
}
