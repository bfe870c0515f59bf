use super::Wgpu;
use super::launch::Launch;
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
        let count = y.layout.count();
        k.constant("KIND", kind).input("x", &inputs[0])?;
        match inputs.get(1) {
            Some(c) => k.input("c", c)?,
            // Nobody looks at it.
            None => k.view(&View::new(inputs[0].layout)),
        };
        let whole = |k: &mut Launch<'_>, name, x: &Input<'_, Self>| {
            x.layout.is_contiguous() && k.wide(name, x.layout.offset % 64, &[8])
        };
        let wide = kind >= 2 && repeats > 0 && count % 8 == 0 && whole(&mut k, "x", &inputs[0]);
        let wide = wide && inputs.get(1).is_none_or(|c| whole(&mut k, "c", c));
        let each = if wide { 8 } else { 1 };
        k.constant("EACH", each as u32);
        k.output("y", y)?.word(count)?.word(repeats)?.float(0.5).float(0.0625).work(8 * count * repeats);
        k.run_elements(count, each)
    }
}
