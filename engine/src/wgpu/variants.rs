//! Which variants of the kernels differ in more than what naga or Tint would tell alike: what tests put through shader
//! compilers.

use super::source::{Access, SHADERS, Value, Variant};
use crate::DType;

/// Constants that a variant sets, and tensors that it leaves unbound.
type Choice = (Vec<(&'static str, Value)>, Vec<&'static str>);

/// Constants and unbound tensors of the variants of a kernel that differ in more than element types.
fn variants(kernel: &str) -> Vec<Choice> {
    let kinds = |n: u32| (0..n).map(|kind| (vec![("KIND", kind.into())], vec![])).collect();
    let flag = |name: &'static str| (vec![(name, true.into())], vec![]);
    let nested = vec!["scale_codes", "second", "map"];
    match kernel {
        "unary" => kinds(7),
        "binary" => kinds(4),
        "burst" => {
            let kind =
                |kind: u32, each: u32, unbound| (vec![("KIND", kind.into()), ("EACH", each.into())], unbound);
            let one = [(0, 1), (1, 1), (2, 1), (2, 8)].map(|(k, each)| kind(k, each, vec!["c"]));
            one.into_iter().chain([kind(3, 1, vec![]), kind(3, 8, vec![])]).collect()
        }
        "gelu" | "gelu_grad" => kinds(2),
        "reduce" | "reduce_rows" => kinds(3),
        "rope" | "rope_write" => vec![flag("HALF"), (vec![("HALF", false.into())], vec![])],
        "norm_grad_weight" => vec![flag("LAYER"), (vec![], vec!["db"])],
        "embedding" => vec![flag("PART"), (vec![], vec![])],
        "lora" | "lora_thin" => vec!["ROUND_B", "DROP_A", "DROP_B", "ADD"].into_iter().map(flag).collect(),
        "matmul" => vec![
            (vec![("A_BY_K", false.into())], vec!["bias"]),
            (vec![("ROW_QUADS", 2.into()), ("COL_QUADS", 2.into()), ("PARTS", 2.into())], vec![]),
            (vec![("A_OCT", true.into()), ("B_OCT", true.into())], vec![]),
        ],
        "matmul_thin" => vec![
            (vec![("ROWS", 8.into())], vec![]),
            (vec![("B_BY_K", false.into()), ("PARTS", 3.into())], vec!["bias"]),
            (vec![("LANES", 8.into()), ("OCT", true.into()), ("EACH", 2.into())], vec!["bias"]),
        ],
        "linear_nf4_decode" => vec![
            (vec![("NESTED", true.into()), ("ROWS", 8.into()), ("EACH", 2.into())], vec!["scales"]),
            (vec![("LANES", 32.into())], [nested, vec!["h", "b", "bias"]].concat()),
        ],
        "matmul_cooperative" | "linear_nf4_cooperative" => {
            let nested =
                if kernel == "matmul_cooperative" { vec![] } else { vec!["scale_codes", "second", "map"] };
            let with = |eight: bool| {
                let turned = ("TURNED", (!eight).into());
                (vec![("EIGHT", eight.into()), turned, ("SUBGROUPS", true.into())], nested.clone())
            };
            vec![with(true), with(false)]
        }
        "linear_nf4" | "linear_nf4_thin" => vec![
            (vec![("NESTED", true.into())], vec!["scales"]),
            (vec![], [nested, vec!["h", "b", "bias"]].concat()),
        ],
        "linear_nf4_grad" => {
            vec![(vec![("NESTED", true.into())], vec!["scales"]), (vec![], [nested, vec!["u", "a"]].concat())]
        }
        "dequantize_blockwise" => {
            vec![(vec![("NESTED", true.into())], vec!["scales"]), (vec![("FOUR", false.into())], nested)]
        }
        "top_k_chunks" => {
            vec![(vec![], vec!["old_keys", "old_places"]), (vec![("LOAD", false.into())], vec![])]
        }
        "top_k_sort" => vec![(vec![], vec![]), (vec![("LOAD", false.into())], vec![])],
        "split_sum" => vec![(vec![], vec![]), (vec![], vec!["bias"])],
        "sgd" => vec![(vec![], vec![]), (vec![], vec!["b"])],
        "attention" | "attention_decode" | "attention_grad_q" | "attention_grad_kv" => vec![
            (vec![("CAUSAL", true.into()), ("CHUNKS", 3.into())], vec![]),
            (vec![("CHUNKS", 4.into())], vec!["mask"]),
        ],
        _ => vec![(vec![], vec![])],
    }
}

/// The kernel's `#bind`s, in included files too: mode, name and fixed type.
fn binds(name: &str, seen: &mut Vec<String>) -> Vec<(String, &'static str, Option<DType>)> {
    if seen.iter().any(|n| n == name) {
        return Vec::new();
    }
    seen.push(name.into());
    let mut found = Vec::new();
    let text = SHADERS.iter().find(|(n, _)| *n == name).map_or("", |(_, text)| text);
    for line in text.lines() {
        if let Some(path) = line.strip_prefix("#include ") {
            found.extend(binds(path.trim_matches('"').trim_end_matches(".wgsl"), seen));
        } else if let Some(rest) = line.strip_prefix("#bind ") {
            let Some((mode, rest)) = rest.split_once(' ') else { continue };
            let (name, dtype) = rest.split_once(": ").map_or((rest, None), |(n, d)| (n, Some(d)));
            let dtype = dtype.and_then(|d| DType::ALL.iter().find(|t| t.name() == d).copied());
            found.push((mode.into(), name, dtype));
        }
    }
    found
}

/// Whether the kernel includes the file `wanted`, or a file that does.
fn includes(name: &str, wanted: &str) -> bool {
    let text = SHADERS.iter().find(|(n, _)| *n == name).map_or("", |(_, text)| text);
    let mut files = text.lines().filter_map(|line| line.strip_prefix("#include "));
    files.any(|path| {
        let name = path.trim_matches('"').trim_end_matches(".wgsl");
        name == wanted || includes(name, wanted)
    })
}

/// Every kernel with every set of its constants and optional tensors, in every floating type, with outputs whose words
/// have one writer or several: name, floating type, variant. Where a kernel has no say in a type, equal texts come of it.
pub fn every_variant() -> Vec<(&'static str, DType, Variant)> {
    let mut all = Vec::new();
    for &(kernel, _) in SHADERS.iter().filter(|(name, _)| !name.starts_with("common/")) {
        let binds = binds(kernel, &mut Vec::new());
        let mut choices = variants(kernel);
        // Cooperative matrices are not without subgroups.
        if includes(kernel, "common/invocation") && !includes(kernel, "common/gemm_cooperative") {
            let with = |(constants, unbound): &Choice| {
                ([&constants[..], &[("SUBGROUPS", true.into())]].concat(), unbound.clone())
            };
            choices.extend(choices.iter().map(with).collect::<Vec<_>>());
        }
        for (constants, unbound) in choices {
            for float in [DType::F32, DType::BF16, DType::F16] {
                for outputs in [Access::Whole, Access::Shared] {
                    let mut variant = Variant::default();
                    variant.constants.extend(constants.iter().copied());
                    if constants.iter().any(|(name, _)| name.ends_with("OCT") || *name == "EACH") {
                        variant.wide.extend(["a", "b", "x", "h", "codes"]);
                    }
                    for (mode, name, fixed) in binds.iter().filter(|(_, n, _)| !unbound.contains(n)) {
                        let access = match mode.as_str() {
                            "read" => Access::Read,
                            "table" => Access::Uniform,
                            _ => outputs,
                        };
                        let dtype = if mode == "table" { DType::F32 } else { fixed.unwrap_or(float) };
                        variant.tensors.insert(name, (dtype, access));
                    }
                    all.push((kernel, float, variant));
                }
            }
        }
    }
    all
}
