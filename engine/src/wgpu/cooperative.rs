//! Products by cooperative matrices (tensor cores, Apple's matrix units), where an adapter has them.
//!
//! wgpu calls the feature experimental, and for a reason: it is there on Vulkan and Metal alone, has no bf16, and its
//! two translations read "row-major" differently. So no adapter is believed: when a device is opened a small product is
//! computed in one reading and then the other, and what is not right to the last digit is never used again.
//!
//! Only 8 × 8 matrices of f32 (Metal's) are taken. Those of f16 (NVIDIA's and others' through Vulkan) have a kernel that
//! waits: products take f32 and bf16, neither of which f16 holds.

use std::sync::atomic::{AtomicU8, Ordering};

use ::wgpu;

use super::Wgpu;
use super::matmul::Product;
use crate::{DType, Device, Result, Tensor};

/// Matrices that kernels are written for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Matrices {
    /// 8 × 8 of f32, which hold every element type.
    F32x8,
    /// 16 × 16 of f16 with sums in f32.
    F16x16,
}

impl Matrices {
    /// Those of an adapter; f32 where it has both.
    pub(super) fn of(adapter: &wgpu::Adapter) -> Option<Self> {
        let (info, features) = (adapter.get_info(), adapter.features());
        let needed = wgpu::Features::EXPERIMENTAL_COOPERATIVE_MATRIX | wgpu::Features::SUBGROUP;
        // The processor plays GPUs without them.
        if info.device_type == wgpu::DeviceType::Cpu || !features.contains(needed) {
            return None;
        }
        let subgroup = [info.subgroup_min_size, info.subgroup_max_size];
        Self::among(&adapter.cooperative_matrix_properties(), info.backend, subgroup)
    }

    /// Those among `offered` for which there are kernels. These divide their work among eight subgroups of 32: Metal does
    /// not say how large subgroups are (on Apple's GPUs they are of 32), there the trial product tells.
    fn among(
        offered: &[wgpu::CooperativeMatrixProperties],
        api: wgpu::Backend,
        subgroup: [u32; 2],
    ) -> Option<Self> {
        use wgpu::CooperativeScalarType::{F16, F32};
        if subgroup != [32; 2] && api != wgpu::Backend::Metal {
            return None;
        }
        let has = |edge: u32, ab, c| {
            offered
                .iter()
                .any(|p| [p.m_size, p.n_size, p.k_size] == [edge; 3] && (p.ab_type, p.cr_type) == (ab, c))
        };
        if has(8, F32, F32) {
            Some(Self::F32x8)
        } else if has(16, F16, F32) {
            Some(Self::F16x16)
        } else {
            None
        }
    }

    /// Whether there is a product that goes by them.
    pub fn taken(self) -> bool {
        self == Self::F32x8
    }

    /// In words.
    pub fn name(self) -> &'static str {
        match self {
            Self::F32x8 => "8 x 8 of f32",
            Self::F16x16 => "16 x 16 of f16",
        }
    }
}

/// Whether cooperative matrices are used, and in which reading of "row-major".
#[derive(Debug, Default)]
pub(super) struct Reading(AtomicU8);

impl Reading {
    const OFF: u8 = 0;
    const TURNED: u8 = 1;
    const STRAIGHT: u8 = 2;
}

/// Least rows and columns of a product that is worth a tile.
const LEAST: usize = 32;

impl Wgpu {
    /// Whether a product of operands of these types goes by cooperative matrices: if so their kind, and TURNED.
    pub(super) fn cooperative(&self, product: &Product, types: [DType; 2]) -> Option<(Matrices, bool)> {
        let reading = self.reading.0.load(Ordering::Relaxed);
        let matrices = self.facts.matrices?;
        let [_, m, n, _] = product.sizes;
        let fits = matrices == Matrices::F32x8 || types == [DType::F16; 2];
        (reading != Reading::OFF && fits && m.min(n) >= LEAST)
            .then_some((matrices, reading == Reading::TURNED))
    }
}

/// Finds out which reading is right, on a device that has just been opened.
pub(super) fn settle(device: &Device) {
    let Some(gpu) = device.backend::<Wgpu>() else { return };
    if !gpu.facts.matrices.is_some_and(Matrices::taken) {
        return;
    }
    for reading in [Reading::TURNED, Reading::STRAIGHT] {
        gpu.reading.0.store(reading, Ordering::Relaxed);
        match trial(device) {
            Ok(true) => return,
            Ok(false) => {}
            Err(e) => tracing::warn!("{}: cooperative matrices: {e}", gpu.facts.name),
        }
    }
    gpu.reading.0.store(Reading::OFF, Ordering::Relaxed);
    tracing::warn!("{}: products by cooperative matrices are wrong; they are not used", gpu.facts.name);
}

/// Whether a product of small whole numbers is right.
fn trial(device: &Device) -> Result<bool> {
    let [m, n, k] = [LEAST + 9, LEAST + 40, 24];
    let number = |i: usize, j: usize, by: usize| ((i * by + j * 5 + i * j % 3) % 7) as f64 - 3.0;
    let a: Vec<f64> = (0..m * k).map(|i| number(i / k, i % k, 3)).collect();
    let b: Vec<f64> = (0..k * n).map(|i| number(i / n, i % n, 2)).collect();
    let tensor = |x: &[f64], dims: [usize; 2]| Tensor::from_f64(x, &dims, DType::F32, device);
    let got = tensor(&a, [m, k])?.matmul(&tensor(&b, [k, n])?)?.to_f64_vec()?;
    let want = |at: usize| (0..k).map(|l| a[at / n * k + l] * b[l * n + at % n]).sum::<f64>();
    Ok(got.iter().enumerate().all(|(at, &y)| y == want(at)))
}

#[cfg(test)]
mod tests {
    use ::wgpu::Backend::{Metal, Vulkan};
    use ::wgpu::CooperativeScalarType::{self as Scalar, F16, F32};

    use super::*;

    fn square(edge: u32, ab_type: Scalar, cr_type: Scalar) -> ::wgpu::CooperativeMatrixProperties {
        ::wgpu::CooperativeMatrixProperties {
            m_size: edge,
            n_size: edge,
            k_size: edge,
            ab_type,
            cr_type,
            saturating_accumulation: false,
        }
    }

    /// What wgpu says of Apple's GPUs (subgroups of 4 to 64, whatever they are) and of NVIDIA's.
    #[test]
    fn metal_has_matrices_that_products_take_and_vulkan_those_that_wait() {
        let apple = [square(8, F32, F32), square(8, F16, F16), square(8, F16, F32)];
        let matrices = Matrices::among(&apple, Metal, [4, 64]);
        assert_eq!(matrices, Some(Matrices::F32x8));
        assert!(matrices.is_some_and(Matrices::taken));

        let nvidia = [square(16, F16, F16), square(16, F16, F32)];
        let matrices = Matrices::among(&nvidia, Vulkan, [32; 2]);
        assert_eq!(matrices, Some(Matrices::F16x16));
        assert!(!matrices.is_some_and(Matrices::taken));

        assert_eq!(Matrices::among(&nvidia, Vulkan, [32, 64]), None);
        assert_eq!(Matrices::among(&[square(8, F16, F32)], Metal, [4, 64]), None);
        assert_eq!(Matrices::among(&[], Metal, [4, 64]), None);
    }
}
