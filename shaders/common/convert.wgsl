// Conversion between element types by their bits; numbers of types: f32 0, bf16 1, f16 2, u8 3, u32 4, i32 5. Floats
// round to nearest even; floats to integers truncate and saturate, NaN gives 0.

// The f32 nearest to an integer's magnitude, inexact ones with the last bit set ("round to odd"): rounding that to
// bf16 gives what rounding the integer would.
fn odd_float(m: u32) -> f32 {
    if (m < 0x1000000u) {
        return f32(m);
    }
    let s = firstLeadingBit(m) - 23u;
    let lost = (m & ((1u << s) - 1u)) != 0u;
    return f32(((m >> s) | select(0u, 1u, lost)) << s);
}

fn as_float(bits: u32, kind: u32, narrow: bool) -> f32 {
    switch kind {
        case 0u: { return bitcast<f32>(bits); }
        case 1u: { return bitcast<f32>(bits << 16u); }
        case 2u: { return f16_value(bits); }
        case 5u: {
            let negative = (bits & 0x80000000u) != 0u;
            let m = select(bits, ~bits + 1u, negative);
            let v = select(f32(m), odd_float(m), narrow);
            return select(v, -v, negative);
        }
        default: { return select(f32(bits), odd_float(bits), narrow); }
    }
}

fn convert_bits(bits: u32, source: u32, to: u32) -> u32 {
    if (source == to) {
        return bits;
    }
    let from_float = source < 3u;
    if (to < 3u) {
        let v = as_float(bits, source, to != 0u);
        switch to {
            case 0u: { return bitcast<u32>(v); }
            case 1u: { return bf16_bits(v); }
            default: { return f16_bits(v); }
        }
    }
    if (from_float) {
        let v = as_float(bits, source, false);
        if (is_nan(v)) {
            return 0u;
        }
        switch to {
            case 3u: { return u32(clamp(v, 0.0, 255.0)); }
            case 4u: { return select(u32(clamp(v, 0.0, 4294967040.0)), 0xffffffffu, v >= 4294967296.0); }
            default: {
                let near = bitcast<u32>(i32(clamp(v, -2147483648.0, 2147483520.0)));
                return select(near, 0x7fffffffu, v >= 2147483648.0);
            }
        }
    }
    // Integers saturate too.
    let negative = source == 5u && (bits & 0x80000000u) != 0u;
    switch to {
        case 3u: { return select(min(bits, 255u), 0u, negative); }
        case 4u: { return select(bits, 0u, negative); }
        default: { return min(bits, 0x7fffffffu); }
    }
}
