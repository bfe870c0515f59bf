//! Every kernel in every variant, translated for every system.

use naga::back::{hlsl, msl, spv};
use naga::valid::{Capabilities, ValidationFlags, Validator};

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
    for (kernel, _, variant) in every_variant() {
        check(kernel, &variant);
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
