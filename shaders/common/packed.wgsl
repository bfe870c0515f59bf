// Values of block-wise codes: table[code]·scale, a product in f32. FOUR: two codes to a byte, the even one in the high
// half. NESTED: the scales are codes themselves, map[code]·second + offset. The kernel's parameters hold a `Packed`, q.
#const FOUR = true
#const NESTED = false
#bind read codes: u8
#bind read scales: f32
#bind read scale_codes: u8
#bind read second: f32
#bind table map
#bind table values

struct Packed {
    codes_at: u32,
    block: u32,
    nested_block: u32,
    scales_at: u32,
    second_at: u32,
    offset: f32,
    // Uniforms hold structs in multiples of 16 bytes.
    unused0: u32,
    unused1: u32,
}

fn scale_of(block: u32) -> f32 {
    if (NESTED) {
        let second = load_second(p.q.second_at + block / p.q.nested_block);
        return load_map(load_scale_codes(p.q.scales_at + block)) * second + p.q.offset;
    }
    return load_scales(p.q.scales_at + block);
}

// Element i of the flattened value.
fn packed_value(i: u32) -> f32 {
    var code = 0u;
    if (FOUR) {
        let pair = load_codes(p.q.codes_at + i / 2u);
        code = select(pair & 15u, pair >> 4u, (i & 1u) == 0u);
    } else {
        code = load_codes(p.q.codes_at + i);
    }
    return load_values(code) * scale_of(i / p.q.block);
}
