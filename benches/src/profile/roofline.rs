//! The ceilings of this machine, for recordings.

use engine::DType;
use engine::profile::Operation;

use crate::machine::{Ceilings, Fingerprint, Machine, default_path};

/// The ceilings that `roentgen bench machine` has stored for this machine; `None` if there are none. Nothing is
/// measured: that would disturb what is being profiled.
pub fn stored_ceilings() -> Option<Ceilings> {
    let path = default_path().filter(|path| path.exists())?;
    match Machine::load(&path) {
        Ok(machine) if machine.fingerprint.differences(&Fingerprint::here()).is_empty() => {
            Some(machine.ceilings())
        }
        Ok(_) => None,
        Err(error) => {
            tracing::warn!("{error}");
            None
        }
    }
}

/// Least seconds of an application by `ceilings`, which are the processor's. What the operation reads and writes is
/// taken as its working set: a bound, for weights that were not in a cache it is generous.
pub fn least_seconds(ceilings: &Ceilings, op: &Operation) -> Option<f64> {
    if op.device != "cpu" {
        return None;
    }
    let dtype = DType::ALL.into_iter().find(|dtype| dtype.name() == op.dtype)?;
    let bytes = op.cost.read + op.cost.written;
    Some(ceilings.least_seconds(&op.cost, dtype, usize::try_from(bytes).ok()?).0)
}
