//! `linear_nf4`, `linear_nf4_group` and their gradient.

use super::Cuda;
use super::elementwise::Mask;
use super::launch::address;
use super::lora::{Factor, Matrix};
use super::matmul::THIN;
use super::quantize::Packed;
use crate::ops::{LinearNf4, LinearNf4Grad, LinearNf4Group};
use crate::{DType, Input, Kernel, Op, Output, Result};

/// Shared memory of the kernels on tensor cores, small and large, and of those for few rows without and with them.
const MMA_SHARED: [usize; 2] = [30_720, 59_392];
const GEMV_SHARED: usize = 2048;
const DECODE_SHARED: usize = 36_864;
/// Columns of a block of a decode kernel.
const DECODE_COLUMNS: usize = 16;
/// Most weights of a group that is one launch.
const MEMBERS: usize = 4;
/// 32-bit words of a member.
const MEMBER: usize = 18;

impl Cuda {
    /// `y = x·Wᵀ (+ bias) (+ h·(scale·B)ᵀ)` for `x [rows, inner]`; `low` is `h`'s address, B, the rank and the scale.
    fn linear_nf4(
        &self,
        op: &'static str,
        x: &Matrix,
        weight: &Packed,
        bias: u64,
        low: Option<(u64, &Factor, usize, f32)>,
        y: &Output<'_, Self>,
    ) -> Result<()> {
        let ([rows, inner], outer) = (x.dims, y.layout.dims[1]);
        let dtype = y.dtype;
        let wide = weight.wide(inner) && x.address.is_multiple_of(16);
        let tiles = self.tiles([1, rows, outer]);
        let rung = match (wide, dtype) {
            (true, DType::BF16) if rows <= THIN && inner.is_multiple_of(32) => "decode",
            (true, _) if rows <= THIN => "gemv",
            (true, DType::BF16) if tiles.large => "large",
            (true, DType::BF16) => "gemm",
            _ => "tile",
        };
        let mut k = self.kernel("linear_nf4", format!("linear_nf4_{rung}_{dtype}"), op);
        k.output(y).at(x.address).packed(weight).at(bias);
        k.at(low.map_or(0, |low| low.0)).at(low.map_or(0, |low| low.1.address));
        let wide = low.is_some_and(|low| low.1.dtype == DType::F32);
        k.words(&[rows, outer, inner, low.map_or(0, |low| low.2), usize::from(wide)]);
        k.float(low.map_or(1.0, |low| low.3)).fits(y.layout.count()).fits(rows * inner);
        match rung {
            _ if rows == 0 => Ok(()),
            "decode" => k.run([outer.div_ceil(DECODE_COLUMNS), 1, 1], [256, 1], DECODE_SHARED),
            "gemv" => k.run([outer.div_ceil(4), 1, 1], [128, 1], GEMV_SHARED),
            "tile" => k.run_simple([1, rows, outer]),
            _ => k.run_tiles(&tiles, MMA_SHARED),
        }
    }
}

fn dims_of(x: &Input<'_, Cuda>) -> [usize; 2] {
    [x.layout.dims[0], x.layout.dims[1]]
}

impl Kernel<LinearNf4> for Cuda {
    fn run(
        &self,
        op: &LinearNf4,
        inputs: &[Input<'_, Self>],
        outputs: &mut [Output<'_, Self>],
    ) -> Result<()> {
        let name = LinearNf4::NAME;
        let places = op.places();
        let (x, y) = (&inputs[0], &outputs[0]);
        let dense = self.dense(name, x)?;
        let rows = Matrix { address: dense.address, dims: dims_of(x) };
        let mut low = None;
        if let (Some(term), Some(at)) = (&op.lora, places.a) {
            let (a, h) = (&inputs[at], &outputs[1]);
            let (factor, rank) = (self.raw_factor(name, a)?, a.layout.dims[0]);
            let h_at = address(h.buffer, h.layout, h.dtype);
            let mask = Mask::new(term.dropout.as_ref());
            self.lora_down(name, x.dtype, h_at, &rows, (&factor, rank), &mask)?;
            low = Some((h_at, self.raw_factor(name, &inputs[at + 1])?, rank, term.scale));
        }
        let weight = self.packed(name, &op.format, &inputs[1..=places.weight])?;
        let bias = places.bias.map(|at| self.dense(name, &inputs[at])).transpose()?;
        let low = low.as_ref().map(|(h, b, rank, scale)| (*h, b, *rank, *scale));
        self.linear_nf4(name, &rows, &weight, bias.as_ref().map_or(0, |bias| bias.address), low, y)
    }
}

impl Kernel<LinearNf4Group> for Cuda {
    fn run(
        &self,
        op: &LinearNf4Group,
        inputs: &[Input<'_, Self>],
        outputs: &mut [Output<'_, Self>],
    ) -> Result<()> {
        let name = LinearNf4Group::NAME;
        let dense = self.dense(name, &inputs[0])?;
        let x = Matrix { address: dense.address, dims: dims_of(&inputs[0]) };
        let weights = op.places().map(|(format, _, at)| self.packed(name, format, &inputs[at..]));
        let weights = weights.collect::<Result<Vec<_>>>()?;
        let [rows, inner] = x.dims;
        let together = inputs[0].dtype == DType::BF16
            && rows <= THIN
            && inner.is_multiple_of(32)
            && weights.len() <= MEMBERS
            && x.address.is_multiple_of(16)
            && weights.iter().all(|weight| weight.wide(inner));
        if !together || rows == 0 {
            return weights
                .iter()
                .zip(&*outputs)
                .try_for_each(|(weight, y)| self.linear_nf4(name, &x, weight, 0, None, y));
        }
        let mut members = [0; MEMBERS * MEMBER];
        let mut blocks = 0;
        let mut k = self.kernel(name, "linear_nf4_group_decode_bf16", name);
        k.at(x.address);
        for ((weight, y), member) in weights.iter().zip(&*outputs).zip(members.chunks_mut(MEMBER)) {
            let outer = y.layout.dims[1];
            let pointers = [address(y.buffer, y.layout, y.dtype)].into_iter().chain(weight.pointers());
            for (pointer, words) in pointers.zip(member.chunks_mut(2)) {
                words.copy_from_slice(bytemuck::cast_slice(&[pointer]));
            }
            member[12..15].copy_from_slice(&weight.blocks());
            k.fits(outer).fits(blocks).fits(y.layout.count());
            [member[15], member[16]] = [outer as u32, blocks as u32];
            blocks += outer.div_ceil(DECODE_COLUMNS);
        }
        k.layout(&members).words(&[weights.len(), rows, inner]).run([blocks, 1, 1], [256, 1], DECODE_SHARED)
    }
}

impl Kernel<LinearNf4Grad> for Cuda {
    fn run(
        &self,
        op: &LinearNf4Grad,
        inputs: &[Input<'_, Self>],
        outputs: &mut [Output<'_, Self>],
    ) -> Result<()> {
        let name = LinearNf4Grad::NAME;
        let dtype = inputs[0].dtype;
        let dense = self.dense(name, &inputs[0])?;
        let dy = Matrix { address: dense.address, dims: dims_of(&inputs[0]) };
        let rows = dy.dims[0];
        let at = if op.format.nested.is_some() { 5 } else { 3 };
        let none = Mask::new(None);
        // u = dy·(scale·B), and its memory.
        let mut low = None;
        if let Some(term) = &op.lora {
            let (a, b) = (&inputs[at], &inputs[at + 1]);
            let [_, rank] = dims_of(b);
            let factor = self.factor(name, b, dtype, term.scale, true)?;
            let buffer = self.temporary(name, rows * rank * dtype.size())?;
            self.lora_down(name, dtype, buffer.address(), &dy, (&factor, rank), &none)?;
            let a = self.factor(name, a, dtype, 1.0, false)?;
            low = Some((Matrix { address: buffer.address(), dims: [rows, rank] }, a, buffer));
        }
        let mask = Mask::new(op.lora.and_then(|term| term.dropout).as_ref());
        let mut outputs = outputs.iter();
        if op.x {
            let dx = outputs.next().expect("dx by the rule");
            let weight = self.packed(name, &op.format, &inputs[1..])?;
            let low = low.as_ref().map(|(u, a, _)| (u, a));
            self.input_gradient(&dy, &weight, low, &mask, dx)?;
        }
        if let (true, Some(term), Some((u, _, _))) = (op.factors, &op.lora, &low) {
            let (da, db) = (outputs.next().expect("dA by the rule"), outputs.next().expect("dB by the rule"));
            let [x, h] = [&inputs[at + 2], &inputs[at + 3]];
            let dense = [self.dense(name, x)?, self.dense(name, h)?];
            let [x, h] = [(x, &dense[0]), (h, &dense[1])]
                .map(|(t, dense)| Matrix { address: dense.address, dims: dims_of(t) });
            self.lora_outer(name, dtype, (u, &x), &mask, 1.0, (da, false))?;
            self.lora_outer(name, dtype, (&h, &dy), &none, term.scale, (db, true))?;
        }
        Ok(())
    }
}

impl Cuda {
    /// `dx = dy·W (+ dropout(u·a))`
    fn input_gradient(
        &self,
        dy: &Matrix,
        weight: &Packed,
        low: Option<(&Matrix, &Factor)>,
        mask: &Mask,
        dx: &Output<'_, Self>,
    ) -> Result<()> {
        let name = LinearNf4Grad::NAME;
        let ([rows, outer], inner) = (dy.dims, dx.layout.dims[1]);
        let mma = dx.dtype == DType::BF16
            && weight.wide(inner)
            && outer.is_multiple_of(8)
            && dy.address.is_multiple_of(16)
            && low.is_none_or(|(_, a)| a.address.is_multiple_of(16));
        let tiles = self.tiles([1, rows, inner]);
        let rung = match (mma, tiles.large) {
            (false, _) => "tile",
            (true, false) => "mma",
            (true, true) => "large",
        };
        let mut k = self.kernel(name, format!("{name}_{rung}_{}", dx.dtype), name);
        k.output(dx).at(dy.address).packed(weight);
        k.at(low.map_or(0, |low| low.0.address)).at(low.map_or(0, |low| low.1.address));
        k.words(&[rows, outer, inner, low.map_or(0, |low| low.0.dims[1])]).mask(mask);
        k.fits(dx.layout.count()).fits(rows * outer);
        if mma { k.run_tiles(&tiles, MMA_SHARED) } else { k.run_simple([1, rows, inner]) }
    }
}
