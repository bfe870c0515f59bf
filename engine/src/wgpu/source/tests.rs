//! Every kernel in every variant, translated for every system.

use naga::back::{hlsl, msl, spv};
use naga::valid::{Capabilities, ValidationFlags, Validator};

use super::*;

type Constants = Vec<(&'static str, Value)>;

/// Constants and unbound tensors of the variants of a kernel that differ in more than element types.
fn variants(kernel: &str) -> Vec<(Constants, Vec<&'static str>)> {
    let kinds = |n: u32| (0..n).map(|kind| (vec![("KIND", kind.into())], vec![])).collect();
    let flag = |name: &'static str| (vec![(name, true.into())], vec![]);
    let nested = vec!["scale_codes", "second", "map"];
    match kernel {
        "unary" => kinds(7),
        "binary" => kinds(4),
        "gelu" | "gelu_grad" => kinds(2),
        "reduce" | "reduce_rows" => kinds(3),
        "rope" => vec![flag("HALF"), (vec![("HALF", false.into())], vec![])],
        "norm_grad_weight" => vec![flag("LAYER"), (vec![], vec!["db"])],
        "embedding" => vec![flag("PART"), (vec![], vec![])],
        "lora" | "lora_thin" => vec!["ROUND_B", "DROP_A", "DROP_B", "ADD"].into_iter().map(flag).collect(),
        "matmul" => vec![
            (vec![("A_BY_K", false.into())], vec!["bias"]),
            (vec![("ROW_QUADS", 2.into()), ("COL_QUADS", 2.into())], vec![]),
            (vec![("A_OCT", true.into()), ("B_OCT", true.into())], vec![]),
        ],
        "matmul_thin" => vec![
            (vec![("ROWS", 8.into())], vec![]),
            (vec![("LANES", 8.into()), ("OCT", true.into()), ("EACH", 2.into())], vec!["bias"]),
        ],
        "linear_nf4_decode" => vec![
            (vec![("NESTED", true.into()), ("ROWS", 8.into()), ("EACH", 2.into())], vec!["scales"]),
            (vec![("LANES", 32.into())], [nested, vec!["h", "b", "bias"]].concat()),
        ],
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
        "top_k_sort" => vec![(vec![], vec![]), (vec![("LOAD", false.into())], vec![])],
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
    let (_, text) = SHADERS.iter().find(|(n, _)| *n == name).unwrap();
    for line in text.lines() {
        if let Some(path) = line.strip_prefix("#include ") {
            found.extend(binds(path.trim_matches('"').trim_end_matches(".wgsl"), seen));
        } else if let Some(rest) = line.strip_prefix("#bind ") {
            let (mode, rest) = rest.split_once(' ').unwrap();
            let (name, dtype) = rest.split_once(": ").map_or((rest, None), |(n, d)| (n, Some(d)));
            let dtype = dtype.map(|d| *DType::ALL.iter().find(|t| t.name() == d).unwrap());
            found.push((mode.into(), name, dtype));
        }
    }
    found
}

fn check(kernel: &str, variant: &Variant) {
    let source = assemble(kernel, variant).unwrap_or_else(|e| panic!("{e}"));
    let text = &source.text;
    let storage =
        |b: &&Binding| !matches!(b, Binding::Params | Binding::Tensor { access: Access::Uniform, .. });
    assert!(source.bindings.iter().filter(storage).count() <= 8, "{kernel}: more than 8 storage buffers");
    let module = naga::front::wgsl::parse_str(text)
        .unwrap_or_else(|e| panic!("{kernel} {variant:?}:\n{}", e.emit_to_string(text)));
    let info = Validator::new(ValidationFlags::all(), Capabilities::empty())
        .validate(&module)
        .unwrap_or_else(|e| panic!("{kernel} {variant:?}:\n{}", e.emit_to_string(text)));
    let mut layouter = naga::proc::Layouter::default();
    layouter.update(module.to_ctx()).unwrap();
    let workgroup: u32 = module
        .global_variables
        .iter()
        .filter(|(_, v)| v.space == naga::AddressSpace::WorkGroup)
        .map(|(_, v)| layouter[v.ty].size)
        .sum();
    assert!(workgroup <= 16 << 10, "{kernel} {variant:?}: {workgroup} bytes of workgroup memory");
    spv::write_vec(&module, &info, &spv::Options::default(), None)
        .unwrap_or_else(|e| panic!("{kernel}: {e}"));
    msl::write_string(&module, &info, &msl::Options::default(), &msl::PipelineOptions::default())
        .unwrap_or_else(|e| panic!("{kernel}: {e}"));
    let mut out = String::new();
    let (options, pipeline) = (hlsl::Options::default(), hlsl::PipelineOptions::default());
    hlsl::Writer::new(&mut out, &options, &pipeline)
        .write(&module, &info, None)
        .unwrap_or_else(|e| panic!("{kernel}: {e}"));
}

#[test]
fn every_kernel_translates_to_every_system_within_default_limits() {
    for (kernel, _) in SHADERS.iter().filter(|(name, _)| !name.starts_with("common/")) {
        let binds = binds(kernel, &mut Vec::new());
        for (constants, unbound) in variants(kernel) {
            for dtype in [DType::F32, DType::BF16, DType::F16] {
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
                        let dtype = if mode == "table" { DType::F32 } else { fixed.unwrap_or(dtype) };
                        variant.tensors.insert(name, (dtype, access));
                    }
                    check(kernel, &variant);
                }
            }
        }
    }
}

#[test]
fn defects_are_named_with_their_place() {
    let error = |variant| assemble("affine", &variant).err().unwrap();
    let mut variant = Variant::default();
    variant.tensors.insert("z", (DType::F32, Access::Read));
    assert_eq!(error(variant), "affine does not bind z");
    let mut variant = Variant::default();
    variant.tensors.insert("x", (DType::F32, Access::Whole));
    assert!(error(variant).starts_with("affine.wgsl:4: #bind read x"));
    assert!(assemble("none", &Variant::default()).is_err());
}
