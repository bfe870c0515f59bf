//! `cross_entropy` and its gradient.

use super::Cuda;
use super::cast::typed;
use crate::fault::Fault;
use crate::ops::{CrossEntropy, CrossEntropyGrad};
use crate::{Input, Kernel, Op, Output, Result};

impl Kernel<CrossEntropy> for Cuda {
    fn run(
        &self,
        op: &CrossEntropy,
        inputs: &[Input<'_, Self>],
        outputs: &mut [Output<'_, Self>],
    ) -> Result<()> {
        let name = CrossEntropy::NAME;
        let logits = &inputs[0];
        let [rows, n] = [logits.layout.dims[0], logits.layout.dims[1]];
        let labels = self.dense(name, &inputs[1])?;
        let mut k = self.kernel(name, typed(name, logits.dtype), name);
        k.output(&outputs[0]).output(&outputs[1]).rows(logits).at(labels.address).status();
        k.word(n).fault(Fault::Label { op: name, ignore: op.ignore, classes: n }).signed(op.ignore);
        k.run_rows(rows)
    }
}

impl Kernel<CrossEntropyGrad> for Cuda {
    fn run(
        &self,
        op: &CrossEntropyGrad,
        inputs: &[Input<'_, Self>],
        outputs: &mut [Output<'_, Self>],
    ) -> Result<()> {
        let name = CrossEntropyGrad::NAME;
        let logits = &inputs[0];
        let [rows, n] = [logits.layout.dims[0], logits.layout.dims[1]];
        if n == 0 {
            return Ok(());
        }
        let vectors = inputs[1..].iter().map(|x| self.dense(name, x)).collect::<Result<Vec<_>>>()?;
        let mut k = self.kernel(name, typed(name, logits.dtype), name);
        k.output(&outputs[0]).rows(logits);
        for x in &vectors {
            k.at(x.address);
        }
        k.status().word(n);
        k.fault(Fault::Label { op: name, ignore: op.ignore, classes: n }).signed(op.ignore).run_rows(rows)
    }
}
