// Cosine and sine of an angle ≥ 0 of any size to f32 precision: WGSL's own are only promised to 2^-11, and within ±π.

// The high and the low word of a product.
fn wide_product(a: u32, b: u32) -> vec2<u32> {
    let al = a & 0xffffu;
    let ah = a >> 16u;
    let bl = b & 0xffffu;
    let bh = b >> 16u;
    let low = al * bl;
    let mid = ah * bl + (low >> 16u);
    let mid2 = al * bh + (mid & 0xffffu);
    return vec2<u32>(ah * bh + (mid >> 16u) + (mid2 >> 16u), (mid2 << 16u) | (low & 0xffffu));
}

// The angle in turns modulo 1, in units of 2^-32: the mantissa times 96 bits of 1/(2π) (Payne and Hanek). For angles
// from ½ on.
fn turns(angle: f32) -> u32 {
    let bits = bitcast<u32>(angle);
    let m = ((bits & 0x7fffffu) | 0x800000u) << 8u;
    // angle = m · 2^(s − 32)
    let s = (bits >> 23u) - 126u;
    let p0 = wide_product(m, 0x28be60dbu);
    let p1 = wide_product(m, 0x9391054au);
    let p2 = wide_product(m, 0x7f09d5f4u);
    let t1 = p2.x + p1.y;
    let carry1 = select(0u, 1u, t1 < p2.x);
    let sum = p1.x + p0.y;
    let carry2 = select(0u, 1u, sum < p1.x);
    let t2 = sum + carry1;
    let carry3 = select(0u, 1u, t2 < sum);
    let t3 = p0.x + carry2 + carry3;
    if (s == 0u) {
        return t3;
    }
    if (s < 32u) {
        return (t3 << s) | (t2 >> (32u - s));
    }
    if (s == 32u) {
        return t2;
    }
    return (t2 << (s - 32u)) | (t1 >> (64u - s));
}

// (cos, sin)
fn cos_sin(angle: f32) -> vec2<f32> {
    var r = angle;
    var quarter = 0u;
    if (angle > 0.75) {
        let t = turns(angle);
        quarter = (t + 0x20000000u) >> 30u;
        // 2π/2^32
        r = f32(bitcast<i32>(t - (quarter << 30u))) * 1.4629180792671596e-9;
    }
    let z = r * r;
    var s = -1.9515295891e-4;
    s = s * z + 8.3321608736e-3;
    s = s * z - 1.6666654611e-1;
    s = s * z * r + r;
    var c = 2.443315711809948e-5;
    c = c * z - 1.388731625493765e-3;
    c = c * z + 4.166664568298827e-2;
    c = c * z * z - 0.5 * z + 1.0;
    switch quarter & 3u {
        case 0u: { return vec2<f32>(c, s); }
        case 1u: { return vec2<f32>(-s, c); }
        case 2u: { return vec2<f32>(-c, -s); }
        default: { return vec2<f32>(s, -c); }
    }
}
