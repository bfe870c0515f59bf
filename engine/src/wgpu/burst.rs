use super::Wgpu;
use super::view::View;
use crate::ops::Burst;
use crate::{Input, Kernel, Op, Output, Result};

impl Kernel<Burst> for Wgpu {
    fn run(&self, op: &Burst, inputs: &[Input<'_, Self>], outputs: &mut [Output<'_, Self>]) -> Result<()> {
        let (y, n) = (&outputs[0], inputs[0].layout.count());
        let mut k = self.kernel(Burst::NAME, Burst::NAME);
        let (kind, repeats) = match *op {
            Burst::MultiplyAdds { rounds } => (0u32, rounds),
            Burst::Products { rounds } => (1, rounds),
            Burst::Read { sums } => (2, n / sums),
            Burst::Triad => (3, 1),
        };
        k.constant("KIND", kind).input("x", &inputs[0])?;
        match inputs.get(1) {
            Some(c) => k.input("c", c)?,
            // Nobody looks at it.
            None => k.view(&View::new(inputs[0].layout)),
        };
        k.output("y", y)?.word(y.layout.count())?.word(repeats)?.float(0.5).float(0.0625);
        k.work(8 * y.layout.count() * repeats);
        k.run_elements(y.layout.count(), y.lanes())
    }
}
