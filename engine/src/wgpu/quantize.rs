//! `quantize_blockwise` and `dequantize_blockwise`.

use std::sync::Arc;

use super::launch::Launch;
use super::source::Access;
use super::{Wgpu, WgpuBuffer};
use crate::ops::{DequantizeBlockwise, QuantizeBlockwise};
use crate::quantized::BlockFormat;
use crate::{Codebook, DType, Input, Kernel, Op, Output, Result};

/// f32 values of a `#bind table`.
const TABLE: usize = 256;

/// A block-quantised value: its inputs, and what must live while it is bound.
pub(super) struct Packed<'a> {
    format: BlockFormat,
    inputs: &'a [Input<'a, Wgpu>],
    values: Arc<WgpuBuffer>,
    /// A copy of the nested map where it does not lie where a uniform can begin.
    map: Option<WgpuBuffer>,
}

impl Wgpu {
    /// The value that `inputs` (codes, scales, …) hold.
    pub(super) fn packed<'a>(
        &self,
        op: &'static str,
        format: &BlockFormat,
        inputs: &'a [Input<'a, Self>],
    ) -> Result<Packed<'a>> {
        let values = self.constant_data(("codebook", format.codebook as u64), || {
            let mut values = format.codebook.values().to_vec();
            values.resize(TABLE, 0.0);
            bytemuck::cast_slice(&values).to_vec()
        })?;
        let map = match inputs.get(3).filter(|_| format.nested.is_some()) {
            Some(map) if !map.layout.is_contiguous() || !map.layout.offset.is_multiple_of(64) => {
                Some(self.dense_copy(op, map)?)
            }
            _ => None,
        };
        Ok(Packed { format: *format, inputs, values, map })
    }
}

impl<'a> Packed<'a> {
    /// Binds it and pushes the parameters of `shaders/common/packed.wgsl`; returns the place of the first code.
    pub(super) fn bind(&'a self, k: &mut Launch<'a>) -> Result<usize> {
        k.constant("FOUR", self.format.codebook.bits() == 4);
        k.constant("NESTED", self.format.nested.is_some()).constant("BLOCK", self.format.block as u32);
        if let Some(nested) = self.format.nested {
            k.constant("NESTED_BLOCK", nested.block as u32);
        }
        let codes = k.read("codes", &self.inputs[0])?.offset;
        k.table("values", &self.values, 0);
        let words = match self.format.nested {
            None => [0, k.read("scales", &self.inputs[1])?.offset, 0],
            Some(nested) => {
                let scales = k.read("scale_codes", &self.inputs[1])?.offset;
                let second = k.read("second", &self.inputs[2])?.offset;
                match &self.map {
                    Some(map) => k.table("map", map, 0),
                    None => k.table("map", self.inputs[3].buffer, self.inputs[3].layout.offset),
                };
                [nested.block, scales, second]
            }
        };
        for word in [codes, self.format.block].into_iter().chain(words) {
            k.word(word)?;
        }
        k.float(self.format.nested.map_or(0.0, |n| n.offset)).word(0)?.word(0)?;
        Ok(codes)
    }
}

impl Kernel<DequantizeBlockwise> for Wgpu {
    fn run(
        &self,
        op: &DequantizeBlockwise,
        inputs: &[Input<'_, Self>],
        outputs: &mut [Output<'_, Self>],
    ) -> Result<()> {
        let y = &outputs[0];
        let dense = self.dense_inputs(DequantizeBlockwise::NAME, inputs)?;
        let inputs = dense.inputs(inputs);
        let packed = self.packed(DequantizeBlockwise::NAME, &op.format, &inputs)?;
        let mut k = self.kernel(DequantizeBlockwise::NAME, DequantizeBlockwise::NAME);
        packed.bind(&mut k)?;
        k.output("y", y)?.word(y.layout.count())?;
        k.run_elements(y.layout.count(), y.lanes())
    }
}

/// Copies of the inputs that are not contiguous.
pub(super) struct Dense(Vec<Option<(WgpuBuffer, crate::Layout)>>);

impl Wgpu {
    /// Copies what is not contiguous: kernels of quantised values count on flat tensors.
    pub(super) fn dense_inputs(&self, op: &'static str, inputs: &[Input<'_, Self>]) -> Result<Dense> {
        let copy = |x: &Input<'_, Self>| -> Result<Option<(WgpuBuffer, crate::Layout)>> {
            if x.layout.is_contiguous() {
                return Ok(None);
            }
            Ok(Some((self.dense_copy(op, x)?, crate::Layout::contiguous(x.layout.dims))))
        };
        Ok(Dense(inputs.iter().map(copy).collect::<Result<_>>()?))
    }
}

impl Dense {
    /// The inputs, copies in the place of those that were copied.
    pub(super) fn inputs<'a>(&'a self, inputs: &[Input<'a, Wgpu>]) -> Vec<Input<'a, Wgpu>> {
        let pick = |(copy, x): (&'a Option<(WgpuBuffer, crate::Layout)>, &Input<'a, Wgpu>)| match copy {
            Some((buffer, layout)) => Input { layout, dtype: x.dtype, buffer },
            None => Input { layout: x.layout, dtype: x.dtype, buffer: x.buffer },
        };
        self.0.iter().zip(inputs).map(pick).collect()
    }
}

impl Kernel<QuantizeBlockwise> for Wgpu {
    fn run(
        &self,
        op: &QuantizeBlockwise,
        inputs: &[Input<'_, Self>],
        outputs: &mut [Output<'_, Self>],
    ) -> Result<()> {
        let name = QuantizeBlockwise::NAME;
        let [codes, absmax] = &*outputs else { unreachable!("two outputs by the rule") };
        let x = &inputs[0];
        let (elements, blocks, bytes) = (x.layout.count(), absmax.layout.count(), codes.layout.count());
        if elements == 0 {
            return Ok(());
        }
        let mut k = self.kernel("quantize_absmax", name);
        k.input("x", x)?.output("y", absmax)?.word(blocks)?.word(elements)?.word(op.block)?.work(elements);
        k.run_elements(blocks, 1)?;

        let key = op.codebook as u64;
        let (entry_codes, midpoints) = op.codebook.search_form();
        let entries = entry_codes.len();
        let entry_codes = self.constant_data(("entry codes", key), || {
            entry_codes.iter().flat_map(|&c| u32::from(c).to_le_bytes()).collect()
        })?;
        let midpoints =
            self.constant_data(("midpoints", key), || bytemuck::cast_slice(midpoints).to_vec())?;
        let mut k = self.kernel(name, name);
        k.constant("FOUR", op.codebook.bits() == 4).input("x", x)?;
        let absmax = Input { layout: absmax.layout, dtype: absmax.dtype, buffer: absmax.buffer };
        k.read("absmax", &absmax)?;
        k.scratch("midpoints", &midpoints, DType::F32, Access::Read)?;
        k.scratch("entry_codes", &entry_codes, DType::U32, Access::Read)?;
        k.output("y", codes)?.word(bytes)?.word(elements)?.word(op.block)?.word(entries)?;
        k.run_elements(bytes, 4)
    }
}

impl Codebook {
    /// Codes in rising order of their values, and the midpoints between neighbours.
    fn search_form(self) -> (&'static [u8], &'static [f32]) {
        self.sorted().parts()
    }
}
