// An integer that orders as floats do: −0 with 0, NaN above everything.
fn order_key(v: f32) -> u32 {
    if (is_nan(v)) {
        return 0xffffffffu;
    }
    let b = select(bitcast<u32>(v), 0u, v == 0.0);
    return select(b | 0x80000000u, ~b, (b & 0x80000000u) != 0u);
}
