//! Single operations against the roofline, by the shapes that models use or by given ones.
//!
//! The cases come from [`engine::capture`]: a model runs once, and each distinct application of an operation (its
//! parameters, shapes, types and strides) is kept with its inputs, to be checked against the f64 oracle and then run
//! alone. Nothing is written per operation but how to make inputs for shapes given by hand ([`given`]).

pub mod given;
mod measure;
pub mod models;
mod names;
mod page;
mod report;
mod ring;

use engine::{Application, DType, Device};
use serde::{Deserialize, Serialize};

use crate::machine::{Bound, Effort, Machine};
use crate::record::{Row, Run};
use crate::stats::Summary;
use crate::{Error, Result};

pub use measure::{Residence, Settings};
pub use names::{suggestion, valid};
pub use page::page;
pub(crate) use report::seconds;
pub use report::{details, text};

/// One application to measure.
#[derive(Clone)]
pub struct Case {
    /// The application with its inputs.
    pub application: Application,
    /// Parts of the run that apply it; empty for given shapes.
    pub phases: Vec<Phase>,
}

/// A part of the run of a whole model.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Phase {
    /// `vision`, `prefill`, `decode` or `train`.
    pub name: String,
    /// How often the whole model applies the case in it.
    pub count: usize,
}

impl Case {
    /// What tells this case from others: operation, parameters and inputs with their strides. Seeds of random streams
    /// and other data do not count.
    pub fn key(&self) -> String {
        key(&self.application)
    }

    /// Applications in all phases; 1 for given shapes.
    pub fn count(&self) -> usize {
        if self.phases.is_empty() { 1 } else { self.phases.iter().map(|p| p.count).sum() }
    }
}

/// [`Case::key`] of an application.
pub fn key(application: &Application) -> String {
    let inputs: Vec<String> = application
        .inputs()
        .iter()
        .map(|t| {
            let layout = t.layout();
            let strides =
                if layout.is_contiguous() { String::new() } else { format!(" strides {:?}", layout.strides) };
            format!("{} {:?}{strides}", t.dtype(), layout.dims)
        })
        .collect();
    format!("{} {} on {}", application.name(), without_data(&application.parameters()), inputs.join(", "))
}

/// Parameters that are data of one tensor or one step, not of a case: streams of random numbers, the mean that was
/// taken off a weight's scales, the factor of a clipped gradient.
const DATA: [&str; 3] = ["seed: ", "offset: ", "grad_scale: "];

/// The parameters with `…` in place of [`DATA`].
fn without_data(parameters: &str) -> String {
    let mut text = parameters.to_owned();
    for name in DATA {
        let mut parts = text.split(name);
        let mut rest = parts.next().unwrap_or_default().to_owned();
        for part in parts {
            rest.push_str(name);
            rest.push('…');
            // A number ends where a field or a struct does.
            rest.push_str(&part[part.find([',', ' ', '}']).unwrap_or(part.len())..]);
        }
        text = rest;
    }
    text
}

/// What is said about a case beside its samples; the `details` of a [`Row`].
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Details {
    /// Name of the operation.
    pub op: String,
    /// Its parameters.
    pub parameters: String,
    /// Inputs, for people: `1024×576 bf16, 576×1536ᵀ`.
    pub shapes: String,
    /// Parts of the model that apply it.
    pub phases: Vec<Phase>,
    /// Applications in the whole model.
    pub count: usize,
    /// The device.
    pub device: String,
    /// Instruction-set path.
    pub variant: String,
    /// Element type that the ceiling is for.
    pub dtype: String,
    /// Declared floating-point operations.
    pub flops: u64,
    /// Declared bytes read and written, repeated elements counted once.
    pub bytes: u64,
    /// Bytes that the repeats go over.
    pub working_set: usize,
    /// Operations a byte.
    pub intensity: f64,
    /// Seconds, if the result is right.
    pub time: Option<Summary>,
    /// Share of the roofline at the median, in percent.
    pub percent: Option<f64>,
    /// What bounds it.
    pub bound: Bound,
    /// Elements compared with the oracle.
    pub checked: usize,
    /// Largest share of its tolerance that one of them took.
    pub worst: f64,
    /// Why there is no time: the result is wrong, and where.
    pub failure: Option<String>,
}

impl Details {
    /// Operations a second at the median.
    pub fn flops_per_second(&self) -> Option<f64> {
        self.time.map(|t| self.flops as f64 / t.median)
    }

    /// Bytes a second at the median.
    pub fn bytes_per_second(&self) -> Option<f64> {
        self.time.map(|t| self.bytes as f64 / t.median)
    }
}

/// Checks and measures `cases` on every path of `settings`, against `machine`, the ceilings of their device, which
/// rises if it does better now. `progress` is told each case before it starts.
///
/// # Errors
/// If an operation cannot run at all. A wrong result is no error: its row says so and has no samples.
pub fn run(
    cases: &[Case],
    settings: &Settings,
    machine: &mut Machine,
    command: Vec<String>,
    mut progress: impl FnMut(usize, &Case),
) -> Result<Run> {
    let first = cases.iter().find_map(|case| case.application.inputs().first());
    let device = first.map_or_else(Device::cpu, |input| input.device().clone());
    let mut probe = Machine::measure(&device, Effort::Probe)?;
    let mut found = Vec::new();
    for (i, case) in cases.iter().enumerate() {
        progress(i, case);
        found.extend(measure::case(case, settings, machine)?);
    }
    probe.raise(&Machine::measure(&device, Effort::Probe)?);
    machine.raise(&probe);
    let ceilings = machine.ceilings();
    let rows = found
        .into_iter()
        .map(|measured| {
            let details = measured.details(machine, &ceilings);
            let map = serde_json::to_value(&details).map_err(|e| Error::Input(e.to_string()))?;
            let residence = settings.residence.name();
            let case = format!("{} {residence} {} {}", details.device, details.variant, measured.key);
            Ok(Row { case, samples: measured.samples, details: map.as_object().cloned().unwrap_or_default() })
        })
        .collect::<Result<_>>()?;
    Run::new(command, machine.clone(), probe, rows)
}

/// The type whose ceiling a case is held against: that of its first input of floats.
fn dtype_of(application: &Application) -> DType {
    let floats = application.inputs().iter().map(engine::Tensor::dtype).find(|d| d.is_float());
    floats.unwrap_or(DType::F32)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn data_tells_no_cases_apart() {
        assert_eq!(without_data("Dropout { p: 0.1, seed: 123 }"), "Dropout { p: 0.1, seed: … }");
        assert_eq!(
            without_data(
                "L { d: Some(Dropout { seed: 9 }), n: Some(Nested { block: 256, offset: -1.5e-3 }), x: 2 }"
            ),
            "L { d: Some(Dropout { seed: … }), n: Some(Nested { block: 256, offset: … }), x: 2 }"
        );
        assert_eq!(without_data("Affine { mul: 2.0 }"), "Affine { mul: 2.0 }");
    }
}
