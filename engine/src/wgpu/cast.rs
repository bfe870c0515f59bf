use super::Wgpu;
use crate::ops::Cast;
use crate::{DType, Input, Kernel, Op, Output, Result};

/// Number of an element type in `shaders/common/convert.wgsl`.
pub(super) fn type_number(dtype: DType) -> u32 {
    match dtype {
        DType::F32 => 0,
        DType::BF16 => 1,
        DType::F16 => 2,
        DType::U8 => 3,
        DType::U32 => 4,
        DType::I32 => 5,
    }
}

impl Kernel<Cast> for Wgpu {
    fn run(&self, _: &Cast, inputs: &[Input<'_, Self>], outputs: &mut [Output<'_, Self>]) -> Result<()> {
        let (x, y) = (&inputs[0], &outputs[0]);
        let mut k = self.kernel(Cast::NAME, Cast::NAME);
        k.constant("FROM", type_number(x.dtype)).constant("TO", type_number(y.dtype));
        k.input("x", x)?.output("y", y)?.word(y.layout.count())?;
        k.run_elements(y.layout.count(), y.lanes())
    }
}
