//! The ceilings of this machine's devices, for recordings.

use engine::profile::Operation;
use engine::{DType, Device};

use crate::machine::{Ceilings, Fingerprint, Machine, default_path};

/// Ceilings by the name of a device, as operations are booked under it.
pub type ByDevice = Vec<(&'static str, Ceilings)>;

/// The ceilings that `roentgen bench machine` has stored for the processor and for `gpu`. Nothing is measured: that would
/// disturb what is being profiled.
pub fn stored_ceilings(gpu: Option<&Device>) -> ByDevice {
    let cpu = Device::cpu();
    let gpu = gpu.filter(|device| **device != cpu);
    [&cpu].into_iter().chain(gpu).filter_map(|device| Some((device.name(), stored(device)?))).collect()
}

fn stored(device: &Device) -> Option<Ceilings> {
    let path = default_path(device).filter(|path| path.exists())?;
    match Machine::load(&path) {
        Ok(machine) if machine.fingerprint.differences(&Fingerprint::of(device)).is_empty() => {
            Some(machine.ceilings())
        }
        Ok(_) => None,
        Err(error) => {
            tracing::warn!("{error}");
            None
        }
    }
}

/// Least seconds of an application by the ceilings of its device. What the operation reads and writes is taken as its
/// working set: a bound, for weights that were not in a cache it is generous.
pub fn least_seconds(ceilings: &ByDevice, op: &Operation) -> Option<f64> {
    let (_, ceilings) = ceilings.iter().find(|(device, _)| *device == op.device)?;
    let dtype = DType::ALL.into_iter().find(|dtype| dtype.name() == op.dtype)?;
    let bytes = op.cost.read + op.cost.written;
    Some(ceilings.least_seconds(&op.cost, dtype, usize::try_from(bytes).ok()?).0)
}
