//! The WGSL functions through which kernels reach tensors: what `#bind` and `#fault` write.

use std::fmt::Write;

use super::source::Access;
use crate::DType;

/// WGSL of `#fault`. The first invocation to find a bad index leaves it; the kernel goes on with a harmless one.
pub(super) const FAULT: &str =
    "@group(0) @binding(NUMBER) var<storage, read_write> fault_words: array<atomic<u32>, 4>;
fn fault_as(number: u32, value: u32, place: u32) {
    if (atomicMax(&fault_words[0], number) == 0u) {
        atomicStore(&fault_words[1], value);
        atomicStore(&fault_words[2], place);
        atomicStore(&fault_words[3], number);
    }
}
fn fault(value: u32, place: u32) {
    fault_as(p.launch, value, place);
}";

/// WGSL of `#bind table`.
pub(super) const TABLE: &str = "@group(0) @binding(NUMBER) var<uniform> NAME_words: array<vec4<f32>, 64>;
fn load_NAME(i: u32) -> f32 { return NAME_words[i / 4u][i % 4u]; }";

/// Type in which a kernel sees an element, how its bits become one, and the way back.
fn conversions(dtype: DType) -> (&'static str, &'static str, &'static str) {
    match dtype {
        DType::F32 => ("f32", "bitcast<f32>(b)", "bitcast<u32>(v)"),
        DType::BF16 => ("f32", "bitcast<f32>(b << 16u)", "bf16_bits(v)"),
        DType::F16 => ("f32", "f16_value(b)", "f16_bits(v)"),
        DType::U8 => ("u32", "b", "(v & 255u)"),
        DType::U32 => ("u32", "b", "v"),
        DType::I32 => ("i32", "bitcast<i32>(b)", "bitcast<u32>(v)"),
    }
}

/// Reading several elements of a tensor at a time.
fn several(name: &str, dtype: DType, wide: bool) -> String {
    let word = |i: String| if wide { format!("{name}_words[({i}) / 4u]") } else { String::new() };
    if dtype == DType::U8 {
        let body = if wide {
            format!("return {};", word("i / 4u".into()))
        } else {
            let at = |k: usize| format!("{name}_words[i / 4u + {k}u]");
            format!("return vec4<u32>({}, {}, {}, {});", at(0), at(1), at(2), at(3))
        };
        let four = if wide { "[i / 16u][(i / 4u) % 4u]" } else { "[i / 4u]" };
        return format!(
            "// Four bytes from `i` on, a multiple of four.\nfn word_{name}(i: u32) -> u32 {{ return {name}_words{four}; }}\n// 16 bytes from `i` on, a multiple of 16.\nfn hex_{name}(i: u32) -> vec4<u32> {{ {body} }}"
        );
    }
    if !dtype.is_float() {
        return String::new();
    }
    let body = match (dtype, wide) {
        (DType::F32, true) => format!(
            "return Oct(bitcast<vec4<f32>>({}), bitcast<vec4<f32>>({}));",
            word("i".into()),
            word("i + 4u".into())
        ),
        (DType::BF16, true) => {
            format!(
                "let w = {}; return Oct(bf16_quad(w.x, w.y), bf16_quad(w.z, w.w));",
                word("i / 2u".into())
            )
        }
        (DType::F16, true) => {
            format!("let w = {}; return Oct(f16_quad(w.x, w.y), f16_quad(w.z, w.w));", word("i / 2u".into()))
        }
        _ => {
            let at = |k: usize| format!("load_{name}(i + {k}u)");
            let quad =
                |k: usize| format!("vec4<f32>({}, {}, {}, {})", at(k), at(k + 1), at(k + 2), at(k + 3));
            format!("return Oct({}, {});", quad(0), quad(4))
        }
    };
    format!(
        "// Eight elements from `i` on, of which `i` is a multiple.\nfn oct_{name}(i: u32) -> Oct {{ {body} }}"
    )
}

/// The functions through which a kernel reaches a tensor.
pub(super) fn accessors(name: &str, number: usize, dtype: DType, access: Access, wide: bool) -> String {
    let upper = name.to_uppercase();
    let lanes = 4 / dtype.size();
    let (kind, decode, encode) = conversions(dtype);
    let atomic = access == Access::Shared && lanes > 1;
    let mut out = String::new();
    let mut line = |text: String| {
        let _ = writeln!(out, "{text}");
    };
    let space = if access == Access::Read { "read" } else { "read_write" };
    let word = match (atomic, wide) {
        (true, _) => "atomic<u32>",
        (_, true) => "vec4<u32>",
        _ => "u32",
    };
    line(format!("@group(0) @binding({number}) var<storage, {space}> {name}_words: array<{word}>;"));
    line(format!("// Elements in a word of {name}."));
    line(format!("const {upper}_LANES = {lanes}u;"));
    let at = |i: &str| {
        let word = if lanes == 1 { i.to_owned() } else { format!("{i} / {lanes}u") };
        match (atomic, wide) {
            (true, _) => format!("atomicLoad(&{name}_words[{word}])"),
            (_, true) => format!("{name}_words[({word}) / 4u][({word}) % 4u]"),
            _ => format!("{name}_words[{word}]"),
        }
    };
    let shift = match lanes {
        1 => String::new(),
        2 => " >> ((i & 1u) * 16u)) & 0xffffu".into(),
        _ => " >> ((i & 3u) * 8u)) & 0xffu".into(),
    };
    let bits =
        if lanes == 1 { format!("return {};", at("i")) } else { format!("return ({}{shift};", at("i")) };
    line(format!("fn raw_{name}(i: u32) -> u32 {{ {bits} }}"));
    line(format!("fn decode_{name}(b: u32) -> {kind} {{ return {decode}; }}"));
    line(format!("fn load_{name}(i: u32) -> {kind} {{ return decode_{name}(raw_{name}(i)); }}"));
    line(format!("fn encode_{name}(v: {kind}) -> u32 {{ return {encode}; }}"));
    if dtype.is_float() {
        let round = if dtype == DType::F32 { "v".into() } else { format!("decode_{name}(encode_{name}(v))") };
        line(format!("// `v` rounded to the element type of {name}."));
        line(format!("fn round_{name}(v: f32) -> f32 {{ return {round}; }}"));
        let quad = if dtype == DType::F32 {
            "v".into()
        } else {
            let each = ["x", "y", "z", "w"].map(|c| format!("round_{name}(v.{c})"));
            format!("vec4<f32>({})", each.join(", "))
        };
        line(format!("fn round_quad_{name}(v: vec4<f32>) -> vec4<f32> {{ return {quad}; }}"));
    }
    if access == Access::Read {
        line(several(name, dtype, wide));
        return out;
    }
    let put_raw = match (lanes, atomic) {
        (1, _) => format!("{name}_words[i] = b;"),
        (_, true) => {
            let (mask, shift) =
                if lanes == 2 { ("0xffffu", "(i & 1u) * 16u") } else { ("0xffu", "(i & 3u) * 8u") };
            format!(
                "let s = {shift}; atomicAnd(&{name}_words[i / {lanes}u], ~({mask} << s)); \
                 atomicOr(&{name}_words[i / {lanes}u], b << s);"
            )
        }
        // Nobody else touches the word: the kernel must call `put_lanes` for it to be whole.
        (_, false) => String::new(),
    };
    if !put_raw.is_empty() {
        line(format!("fn put_raw_{name}(i: u32, b: u32) {{ {put_raw} }}"));
        line(format!("fn put_{name}(i: u32, v: {kind}) {{ put_raw_{name}(i, encode_{name}(v)); }}"));
    }
    line(
        "// Puts `n` elements from `i` on, at most a word; `i` begins a word unless words are shared.".into(),
    );
    line(format!("fn put_raw_lanes_{name}(i: u32, b: array<u32, {lanes}>, n: u32) {{"));
    if put_raw.is_empty() {
        let joined: Vec<String> = (0..lanes).map(|k| format!("(b[{k}] << {}u)", k * 32 / lanes)).collect();
        line(format!("    {name}_words[i / {lanes}u] = {};", joined.join(" | ")));
    } else {
        line(format!("    var v = b;\n    for (var k = 0u; k < n; k++) {{ put_raw_{name}(i + k, v[k]); }}"));
    }
    line("}".into());
    line(format!("fn put_lanes_{name}(i: u32, v: array<{kind}, {lanes}>, n: u32) {{"));
    line(format!("    var b: array<u32, {lanes}>;"));
    for k in 0..lanes {
        line(format!("    b[{k}] = encode_{name}(v[{k}]);"));
    }
    line(format!("    put_raw_lanes_{name}(i, b, n);\n}}"));
    out
}
