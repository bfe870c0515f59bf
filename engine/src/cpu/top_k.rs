use super::argmax::{CHUNK, for_rows, key, largest_key};
use super::threads::Scatter;
use super::walk::float_type;
use crate::ops::TopK;
use crate::{Cpu, Float, Input, Kernel, Output, Result};

/// Candidates beyond `k` that are gathered before they are thinned out again.
const SLACK: usize = 256;

/// Key and place in one integer that orders by key, then by lower place.
fn pack(key: i32, place: usize) -> u64 {
    u64::from(key as u32 ^ 1 << 31) << 32 | u64::from(!(place as u32))
}

fn unpack(packed: u64) -> (i32, usize) {
    ((packed >> 32) as i32 ^ i32::MIN, !(packed as u32) as usize)
}

/// Places of the `k` largest, in descending order. Whole chunks without a candidate are skipped.
fn largest<T: Float>(row: &[T], k: usize) -> Vec<usize> {
    if k == 0 {
        return Vec::new();
    }
    let limit = k + k.max(SLACK);
    let mut best: Vec<u64> = Vec::with_capacity(limit);
    let thin = |best: &mut Vec<u64>| {
        if best.len() > k {
            best.select_nth_unstable_by(k - 1, |a, b| b.cmp(a));
            best.truncate(k);
        }
    };
    // Once k are held, only a greater key than the least of them can enter: at an equal one, the lower place
    // is held already.
    let mut floor = None;
    for (c, chunk) in row.chunks(CHUNK).enumerate() {
        if floor.is_some_and(|floor| largest_key(chunk) <= floor) {
            continue;
        }
        for (i, &x) in chunk.iter().enumerate() {
            let key = key(x);
            if floor.is_none_or(|floor| key > floor) {
                best.push(pack(key, c * CHUNK + i));
                if best.len() == limit {
                    thin(&mut best);
                    floor = Some(unpack(best[k - 1]).0);
                }
            }
        }
    }
    thin(&mut best);
    best.sort_unstable_by(|a, b| b.cmp(a));
    best.into_iter().map(|packed| unpack(packed).1).collect()
}

fn top_k<T: Float>(k: usize, x: &Input<'_, Cpu>, outputs: &mut [Output<'_, Cpu>]) -> Result<()> {
    let [values, indices] = outputs else { unreachable!("two outputs by the rule") };
    let values = Scatter::new(values.slice_mut::<f32>()?);
    let indices = Scatter::new(indices.slice_mut::<u32>()?);
    for_rows::<T>(x, |r, row| {
        // SAFETY: each task has its own rows.
        let (values, indices) = unsafe { (values.slice(r * k, k), indices.slice(r * k, k)) };
        for ((value, index), place) in values.iter_mut().zip(indices).zip(largest(row, k)) {
            (*value, *index) = (row[place].to_f32(), place as u32);
        }
    });
    Ok(())
}

impl Kernel<TopK> for Cpu {
    fn run(&self, op: &TopK, inputs: &[Input<'_, Self>], outputs: &mut [Output<'_, Self>]) -> Result<()> {
        float_type!(inputs[0].dtype, T => top_k::<T>(op.k, &inputs[0], outputs))
    }
}
