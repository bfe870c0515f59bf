// Elementary functions as on the CPU (`engine/src/cpu/math.rs`, which gives their errors): WGSL's own are only
// promised to some thousandths.

// e^x to 1.5 ulp. x = n·ln 2 + r, |r| ≤ ½ ln 2.
fn exp_(v: f32) -> f32 {
    if (is_nan(v)) {
        return v;
    }
    let x = clamp(v, -104.0, 89.0);
    let n = floor(x * 1.4426950408889634 + 0.5);
    let r = x - n * 0.693359375 + n * 2.121944400546905827679e-4;
    var q = 1.3926918e-3;
    q = q * r + 8.363767e-3;
    q = q * r + 4.166655e-2;
    q = q * r + 1.6666573e-1;
    q = q * r + 0.5;
    let y = q * (r * r) + r + 1.0;
    // Two factors: 2^n alone would leave the range of normal numbers at both ends.
    let a = i32(n) / 2;
    let b = i32(n) - a;
    return y * bitcast<f32>(u32(a + 127) << 23u) * bitcast<f32>(u32(b + 127) << 23u);
}

// ln x to 1 ulp (Cephes' logf): x = 2^e·(1 + f), √½ ≤ 1 + f < √2.
fn ln_(x: f32) -> f32 {
    let bits = bitcast<u32>(x);
    if ((bits & 0x7fffffffu) == 0u) {
        return minus_infinity();
    }
    if (bits > 0x7f800000u) {
        return nan();
    }
    if (bits == 0x7f800000u) {
        return x;
    }
    var m = bits;
    var e = 0;
    if (m < 0x00800000u) {
        // Subnormal: brought into the normal range by its integer value, 2^-149 each.
        m = bitcast<u32>(f32(m));
        e = -149;
    }
    e += i32(m >> 23u) - 126;
    var f = bitcast<f32>((m & 0x7fffffu) | 0x3f000000u);
    if (f < 0.70710678) {
        e -= 1;
        f = f + f - 1.0;
    } else {
        f = f - 1.0;
    }
    let z = f * f;
    var q = 7.0376836292e-2;
    q = q * f - 1.1514610310e-1;
    q = q * f + 1.1676998740e-1;
    q = q * f - 1.2420140846e-1;
    q = q * f + 1.4249322787e-1;
    q = q * f - 1.6668057665e-1;
    q = q * f + 2.0000714765e-1;
    q = q * f - 2.4999993993e-1;
    q = q * f + 3.3333331174e-1;
    var y = f * z * q;
    y += f32(e) * -2.12194440e-4;
    y -= 0.5 * z;
    return f + y + f32(e) * 0.693359375;
}

// 1 / (1 + e^-x), from the side where the exponential is small.
fn sigmoid_(x: f32) -> f32 {
    let e = exp_(-abs(x));
    return select(1.0, e, x < 0.0) / (1.0 + e);
}

fn with_sign(v: f32, sign: f32) -> f32 {
    return bitcast<f32>((bitcast<u32>(v) & 0x7fffffffu) | (bitcast<u32>(sign) & 0x80000000u));
}

fn tanh_(x: f32) -> f32 {
    let z = x * x;
    var q = -6.045165e-3;
    q = q * z + 2.096133e-2;
    q = q * z - 5.3843263e-2;
    q = q * z + 1.3332719e-1;
    q = q * z - 3.3333328e-1;
    let near = x + x * (z * q);
    let far = 1.0 - 2.0 / (exp_(2.0 * abs(x)) + 1.0);
    return with_sign(select(far, near, abs(x) < 0.625), x);
}

fn erf_(x: f32) -> f32 {
    let z = x * x;
    var q = -5.979258e-4;
    q = q * z + 4.9912314e-3;
    q = q * z - 2.676556e-2;
    q = q * z + 1.1281797e-1;
    q = q * z - 3.7612493e-1;
    q = q * z + 1.2837917e-1;
    let near = x + x * q;
    // From 4 on the result is 1.
    let t = select(abs(x), 4.0, abs(x) > 4.0);
    var w = 2.774853e-7;
    w = w * t - 4.499955e-6;
    w = w * t + 1.2793682e-5;
    w = w * t + 2.7624484e-4;
    w = w * t - 3.668697e-3;
    w = w * t + 2.4020303e-2;
    w = w * t - 1.0666902e-1;
    w = w * t - 6.3483864e-1;
    w = w * t - 1.1287342;
    let far = 1.0 - exp_(w * t);
    return with_sign(select(far, near, abs(x) < 0.92), x);
}
