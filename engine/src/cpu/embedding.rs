use super::rms_norm::row_offset;
use super::rows::{check_ids, copy_row, flat};
use super::threads::Scatter;
use super::walk::{float_type, for_row_blocks};
use crate::ops::{Embedding, EmbeddingGrad};
use crate::{Cpu, Float, Input, Kernel, Op, Output, Result};

fn gather<T: Float>(table: &Input<'_, Cpu>, ids: &Input<'_, Cpu>, out: &mut Output<'_, Cpu>) -> Result<()> {
    let ([rows, n], [down, step]) = (&table.layout.dims[..], &table.layout.strides[..]) else {
        unreachable!("a matrix by the rule")
    };
    let chosen = flat::<u32>(ids);
    check_ids(Embedding::NAME, &chosen, &ids.layout.dims, *rows)?;
    let data = table.slice::<T>();
    let out = Scatter::new(out.slice_mut::<T>()?);
    for_row_blocks(chosen.len(), *n, |first, count| {
        for r in first..first + count {
            // SAFETY: each task has its own rows.
            let out = unsafe { out.slice(r * n, *n) };
            copy_row(data, chosen[r] as usize * down, *step, out);
        }
    });
    Ok(())
}

impl Kernel<Embedding> for Cpu {
    fn run(&self, _: &Embedding, inputs: &[Input<'_, Self>], outputs: &mut [Output<'_, Self>]) -> Result<()> {
        float_type!(inputs[0].dtype, T => gather::<T>(&inputs[0], &inputs[1], &mut outputs[0]))
    }
}

/// Each task owns a block of table rows and adds up what belongs to them, so nothing is summed in an order
/// that depends on threads.
fn scatter_add<T: Float>(
    rows: usize,
    ids: &Input<'_, Cpu>,
    g: &Input<'_, Cpu>,
    out: &mut Output<'_, Cpu>,
) -> Result<()> {
    let chosen = flat::<u32>(ids);
    check_ids(EmbeddingGrad::NAME, &chosen, &ids.layout.dims, rows)?;
    if g.layout.count() == 0 {
        out.slice_mut::<T>()?.fill(T::from_f32(0.0));
        return Ok(());
    }
    let last = g.layout.dims.len() - 1;
    let (n, step) = (g.layout.dims[last], g.layout.strides[last]);
    let mut order: Vec<usize> = (0..chosen.len()).collect();
    order.sort_by_key(|&place| chosen[place]);
    let data = g.slice::<T>();
    let out = Scatter::new(out.slice_mut::<T>()?);
    for_row_blocks(rows, n, |first, count| {
        // SAFETY: each task has its own rows.
        let block = unsafe { out.slice(first * n, count * n) };
        block.fill(T::from_f32(0.0));
        let start = order.partition_point(|&place| (chosen[place] as usize) < first);
        let end = order.partition_point(|&place| (chosen[place] as usize) < first + count);
        let mut sum = vec![0.0f32; if start < end { n } else { 0 }];
        for places in order[start..end].chunk_by(|&a, &b| chosen[a] == chosen[b]) {
            let row = (chosen[places[0]] as usize - first) * n;
            let out = &mut block[row..row + n];
            if let [place] = places {
                copy_row(data, row_offset(g.layout, *place), step, out);
                continue;
            }
            sum.fill(0.0);
            for &place in places {
                let at = row_offset(g.layout, place);
                if step == 1 {
                    sum.iter_mut().zip(&data[at..at + n]).for_each(|(s, x)| *s += x.to_f32());
                } else {
                    sum.iter_mut().enumerate().for_each(|(i, s)| *s += data[at + i * step].to_f32());
                }
            }
            out.iter_mut().zip(&sum).for_each(|(y, &s)| *y = T::from_f32(s));
        }
    });
    Ok(())
}

impl Kernel<EmbeddingGrad> for Cpu {
    fn run(
        &self,
        op: &EmbeddingGrad,
        inputs: &[Input<'_, Self>],
        outputs: &mut [Output<'_, Self>],
    ) -> Result<()> {
        float_type!(inputs[1].dtype, T => scatter_add::<T>(op.rows, &inputs[0], &inputs[1], &mut outputs[0]))
    }
}
