//! Rows chosen by index: reading and checking of small integer tensors, and copies of rows.

use std::borrow::Cow;

use super::rms_norm::row_offset;
use crate::error::{Result, rule};
use crate::layout::{Dims, MAX_RANK};
use crate::{Cpu, Element, Input};

/// The elements of a small tensor in row-major order.
pub(super) fn flat<'a, T: Element>(x: &Input<'a, Cpu>) -> Cow<'a, [T]> {
    let data = x.slice::<T>();
    let Some(&step) = x.layout.strides.last().filter(|_| !x.layout.is_contiguous()) else {
        return Cow::Borrowed(data);
    };
    let n = x.layout.dims[x.layout.dims.len() - 1];
    let rows = x.layout.count() / n.max(1);
    Cow::Owned(
        (0..rows)
            .flat_map(|r| {
                let at = row_offset(x.layout, r);
                (0..n).map(move |i| data[at + i * step])
            })
            .collect(),
    )
}

/// An error that names the first id that is not below `rows`, and where it stands.
pub(super) fn check_ids(op: &'static str, ids: &[u32], dims: &Dims, rows: usize) -> Result<()> {
    let Some(at) = ids.iter().position(|&id| id as usize >= rows) else { return Ok(()) };
    let mut place = [0; MAX_RANK];
    let mut rest = at;
    for (p, &d) in place[..dims.len()].iter_mut().zip(dims.iter()).rev() {
        *p = rest % d;
        rest /= d;
    }
    Err(rule!(op, "id {} at {:?} is outside the {rows} rows", ids[at], &place[..dims.len()]))
}

/// Copies `out.len()` elements from `at`, `step` apart.
pub(super) fn copy_row<T: Copy>(data: &[T], at: usize, step: usize, out: &mut [T]) {
    if out.is_empty() {
        // The rows of an empty matrix start beyond its slice.
    } else if step == 1 {
        out.copy_from_slice(&data[at..at + out.len()]);
    } else {
        out.iter_mut().enumerate().for_each(|(i, y)| *y = data[at + i * step]);
    }
}
