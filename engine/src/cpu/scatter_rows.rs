use super::rows::{check_ids, copy_row, flat};
use super::threads::Scatter;
use super::walk::{float_type, for_row_blocks};
use crate::error::{Result, rule};
use crate::ops::ScatterRows;
use crate::{Cpu, Float, Input, Kernel, Op, Output};

fn scatter<T: Float>(inputs: &[Input<'_, Cpu>], out: &mut Output<'_, Cpu>) -> Result<()> {
    let [base, rows, index] = inputs else { unreachable!("three inputs by the rule") };
    let (count, n) = (base.layout.dims[0], base.layout.dims[1]);
    let index_dims = index.layout.dims;
    let index = flat::<u32>(index);
    check_ids(ScatterRows::NAME, &index, &index_dims, count)?;
    // For each row of the result, the replacement that it takes.
    let mut source: Vec<Option<usize>> = vec![None; count];
    for (j, &i) in index.iter().enumerate() {
        if let Some(before) = source[i as usize].replace(j) {
            return Err(rule!(ScatterRows::NAME, "index {i} stands at {before} and again at {j}"));
        }
    }
    let (kept, new) = (base.slice::<T>(), rows.slice::<T>());
    let (base, rows) = (base.layout.strides, rows.layout.strides);
    let out = Scatter::new(out.slice_mut::<T>()?);
    for_row_blocks(count, n, |first, count| {
        for (r, source) in (first..).zip(&source[first..first + count]) {
            // SAFETY: each task has its own rows.
            let out = unsafe { out.slice(r * n, n) };
            match source {
                Some(j) => copy_row(new, j * rows[0], rows[1], out),
                None => copy_row(kept, r * base[0], base[1], out),
            }
        }
    });
    Ok(())
}

impl Kernel<ScatterRows> for Cpu {
    fn run(
        &self,
        _: &ScatterRows,
        inputs: &[Input<'_, Self>],
        outputs: &mut [Output<'_, Self>],
    ) -> Result<()> {
        float_type!(inputs[0].dtype, T => scatter::<T>(inputs, &mut outputs[0]))
    }
}
