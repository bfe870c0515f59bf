//! Every kernel in every variant, translated for every system.

use naga::back::{hlsl, msl, spv};
use naga::valid::{Capabilities, ShaderStages, SubgroupOperationSet, ValidationFlags, Validator};

use super::*;
use crate::wgpu::variants::every_variant;

fn check(kernel: &str, variant: &Variant) {
    let source = assemble(kernel, variant).unwrap_or_else(|e| panic!("{e}"));
    let text = &source.text;
    let storage =
        |b: &&Binding| !matches!(b, Binding::Params | Binding::Tensor { access: Access::Uniform, .. });
    assert!(source.bindings.iter().filter(storage).count() <= 8, "{kernel}: more than 8 storage buffers");
    let module = naga::front::wgsl::parse_str(text)
        .unwrap_or_else(|e| panic!("{kernel} {variant:?}:\n{}", e.emit_to_string(text)));
    let subgroups = variant.constants.get("SUBGROUPS") == Some(&Value::Flag(true));
    let mut capabilities = if subgroups { Capabilities::SUBGROUP } else { Capabilities::empty() };
    let matrices = text.contains("enable wgpu_cooperative_matrix");
    if matrices {
        capabilities |= Capabilities::COOPERATIVE_MATRIX | Capabilities::SHADER_FLOAT16;
    }
    let info = Validator::new(ValidationFlags::all(), capabilities)
        .subgroup_stages(ShaderStages::COMPUTE)
        .subgroup_operations(SubgroupOperationSet::all())
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
    // Metal has them of 8 × 8, from its version 2.3 on; DirectX does not.
    let metal = !matrices || variant.constants["EIGHT"] == Value::Flag(true);
    let mut options = msl::Options::default();
    if matrices {
        options.lang_version = (2, 3);
    }
    if metal {
        msl::write_string(&module, &info, &options, &msl::PipelineOptions::default())
            .unwrap_or_else(|e| panic!("{kernel}: {e}"));
    }
    if matrices {
        return;
    }
    let mut out = String::new();
    let mut options = hlsl::Options::default();
    if subgroups {
        options.shader_model = hlsl::ShaderModel::V6_0;
    }
    let pipeline = hlsl::PipelineOptions::default();
    hlsl::Writer::new(&mut out, &options, &pipeline)
        .write(&module, &info, None)
        .unwrap_or_else(|e| panic!("{kernel}: {e}"));
}

#[test]
fn every_kernel_translates_to_every_system_within_default_limits() {
    for (kernel, _, variant) in every_variant() {
        check(kernel, &variant);
    }
}

/// Compilers may take it that no infinity occurs.
#[test]
fn no_kernel_compares_with_an_infinity() {
    for (name, text) in SHADERS {
        for line in text.lines() {
            let compares = ["== minus_infinity", "!= minus_infinity", "== infinity", "!= infinity"];
            assert!(!compares.iter().any(|c| line.contains(c)), "{name}.wgsl: {line}");
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

#[test]
fn conditions_choose_lines() {
    let text = |subgroups: bool| {
        let mut variant = Variant::default();
        variant.constants.insert("SUBGROUPS", subgroups.into());
        for (name, access) in [("x", Access::Read), ("w", Access::Read), ("y", Access::Whole)] {
            variant.tensors.insert(name, (DType::F32, access));
        }
        assemble("rms_norm", &variant).unwrap().text
    };
    let (with, without) = (text(true), text(false));
    assert!(with.contains("subgroupAdd(") && !with.contains("half /= 2u"));
    assert!(
        !without.contains("subgroupAdd(")
            && !without.contains("@builtin(subgroup")
            && without.contains("half /= 2u")
    );
    assert!(!with.contains('#') && !without.contains('#'));
}
