//! The ceilings of this machine's devices, for recordings.

use engine::DType;
use engine::profile::Operation;

use crate::machine::{Ceilings, Fingerprint, Machine};

/// Ceilings by the name of a device, as operations are booked under it.
pub type ByDevice = Vec<(String, Ceilings)>;

/// The ceilings that `roentgen bench machine` has stored for the processor and for the GPU with the fingerprint `gpu`.
/// Nothing is measured: that would disturb what is being profiled.
pub fn stored_ceilings(gpu: Option<&Fingerprint>) -> ByDevice {
    let cpu = Fingerprint::here();
    let gpu = gpu.filter(|fingerprint| fingerprint.gpu());
    let devices = [("cpu", &cpu)].into_iter().chain(gpu.map(|gpu| (gpu.isa.as_str(), gpu)));
    devices.filter_map(|(name, fingerprint)| Some((name.to_owned(), stored(fingerprint)?))).collect()
}

fn stored(own: &Fingerprint) -> Option<Ceilings> {
    let path = own.path().filter(|path| path.exists())?;
    match Machine::load(&path) {
        Ok(machine) if machine.fingerprint.differences(own).is_empty() => Some(machine.ceilings()),
        Ok(_) => None,
        Err(error) => {
            tracing::warn!("{error}");
            None
        }
    }
}

/// Least seconds of an application by the ceilings of its device. What the operation reads and writes is taken as its
/// working set: a bound, for weights that were not in a cache it is generous.
pub fn least_seconds(ceilings: &[(String, Ceilings)], op: &Operation) -> Option<f64> {
    let (_, ceilings) = ceilings.iter().find(|(device, _)| *device == op.device)?;
    let dtype = DType::ALL.into_iter().find(|dtype| dtype.name() == op.dtype)?;
    let bytes = op.cost.read + op.cost.written;
    Some(ceilings.least_seconds(&op.cost, dtype, usize::try_from(bytes).ok()?).0)
}
