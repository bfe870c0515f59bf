//! How a bad index is told by devices that run kernels later than they are launched.

use crate::Error;
use crate::error::rule;
use crate::layout::{Dims, MAX_RANK};

/// What a kernel found; the texts are those of the CPU's kernels.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Fault {
    /// An id that is not below `rows`, in a tensor of ids of shape `dims`.
    Id { op: &'static str, dims: Dims, rows: usize },
    /// An index that stands twice.
    Twice { op: &'static str },
    /// A label that is neither ignored nor a class.
    Label { op: &'static str, ignore: i32, classes: usize },
}

impl Fault {
    /// The error for a bad `value` that stands at `place`, counted row-major.
    pub(crate) fn error(&self, value: u32, place: u32) -> Error {
        match *self {
            Self::Id { op, dims, rows } => {
                let mut index = [0; MAX_RANK];
                let mut rest = place as usize;
                for (i, &d) in index[..dims.len()].iter_mut().zip(dims.iter()).rev() {
                    *i = rest % d.max(1);
                    rest /= d.max(1);
                }
                rule!(op, "id {value} at {:?} is outside the {rows} rows", &index[..dims.len()])
            }
            Self::Twice { op } => rule!(op, "index {value} stands at two places, one of them {place}"),
            Self::Label { op, ignore, classes } => rule!(
                op,
                "label {} of row {place} is neither {ignore} (ignored) nor below the vocabulary of {classes}",
                value.cast_signed()
            ),
        }
    }
}
