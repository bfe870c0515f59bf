use super::Cuda;
use crate::ops::Burst;
use crate::{Input, Kernel, Op, Output, Result};

impl Kernel<Burst> for Cuda {
    fn run(&self, op: &Burst, inputs: &[Input<'_, Self>], outputs: &mut [Output<'_, Self>]) -> Result<()> {
        let (name, y, n) = (Burst::NAME, &outputs[0], inputs[0].layout.count());
        let (entry, repeats) = match *op {
            Burst::MultiplyAdds { rounds } => ("burst_multiply_adds", rounds),
            Burst::Products { rounds } => ("burst_products", rounds),
            Burst::Read { sums } => ("burst_read", n / sums),
            Burst::Triad => ("burst_triad", 1),
        };
        let x = self.dense(name, &inputs[0])?;
        let c = inputs.get(1).map(|c| self.dense(name, c)).transpose()?;
        let count = y.layout.count();
        let mut k = self.kernel(name, entry, name);
        k.output(y).at(x.address);
        if let Some(c) = &c {
            k.at(c.address);
        }
        k.word(count).word(repeats);
        // A thread of a matrix instruction has four elements.
        let threads = if matches!(op, Burst::Products { .. }) { count / 4 } else { count };
        k.run([threads.div_ceil(256), 1, 1], [256, 1], 0)
    }
}
