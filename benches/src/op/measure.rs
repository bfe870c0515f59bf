//! One case: right first, then timed.

use engine::cpu::isa::{Isa, with_isa};
use engine::{Application, Cost, DType, Device, Tensor};
use roentgen_oracle::replay::{self, Checked};

use super::ring::Ring;
use super::{Case, Details, dtype_of};
use crate::machine::{Ceilings, Machine, six_digits};
use crate::stats::Summary;
use crate::{Error, Result};

/// Where inputs are when a repeat begins.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Residence {
    /// In memory: repeats go round copies that exceed the caches, outputs too. As weights are in a model.
    Memory,
    /// Wherever the last repeat left them, in a cache if they fit. As activations are.
    Warm,
}

impl Residence {
    /// One word.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Memory => "cold",
            Self::Warm => "warm",
        }
    }
}

/// How to measure.
#[derive(Clone, Debug)]
pub struct Settings {
    /// Seconds of repeats of each case on each path.
    pub seconds: f64,
    /// Where inputs are.
    pub residence: Residence,
    /// Instruction-set paths, side by side.
    pub variants: Vec<Isa>,
}

/// Copies go over so many times the last cache.
const CACHES: usize = 4;
/// Of small inputs no more than so many copies are made; the ceiling is that of what they come to.
const MOST_COPIES: usize = 4096;
/// Bytes that all copies may take: of a large table of which few rows are read there are fewer.
const MOST_BYTES: usize = 1 << 30;
/// Turns that paths take within one case.
const TURNS: usize = 5;

/// What was found about one case on one path.
pub(super) struct Measured {
    pub(super) key: String,
    pub(super) samples: Vec<f64>,
    case: Case,
    variant: Isa,
    cost: Cost,
    dtype: DType,
    working_set: usize,
    check: Result<Checked, String>,
}

/// Bytes of inputs and outputs, elements that a view repeats once.
fn footprint(application: &Application) -> Result<usize> {
    let outputs = application.output_specs()?;
    let inputs = application.inputs().iter().map(|t| t.layout().span().min(t.count()) * t.dtype().size());
    // In place, the targets are among the inputs.
    let outputs = if application.targets() > 0 { 0 } else { outputs.iter().map(engine::Spec::bytes).sum() };
    Ok(inputs.sum::<usize>() + outputs)
}

/// Whether it runs where the instruction sets are.
fn on_processor(application: &Application) -> bool {
    application.inputs().first().is_none_or(|input| *input.device() == Device::cpu())
}

/// Checks and times a case on every path.
pub(super) fn case(case: &Case, settings: &Settings, machine: &Machine) -> Result<Vec<Measured>> {
    let application = &case.application;
    let (cost, footprint) = (application.cost()?, footprint(application)?.max(1));
    // What a run touches: of a table that rows are taken from only these.
    let bytes = footprint.min((cost.read + cost.written) as usize).max(1);
    let wanted = CACHES * machine.fingerprint.last_cache();
    let copies = match settings.residence {
        Residence::Warm => 1,
        Residence::Memory => wanted.div_ceil(bytes).min(MOST_BYTES / footprint).clamp(1, MOST_COPIES),
    };
    // Instruction sets are the processor's matter.
    let variants = if on_processor(application) { &settings.variants[..] } else { &[Isa::Portable] };
    let mut all = variants
        .iter()
        .map(|&variant| {
            let check = with_isa(variant, || replay::check(application))??;
            Ok(Measured {
                key: case.key(),
                samples: Vec::new(),
                case: case.clone(),
                variant,
                cost,
                dtype: dtype_of(application),
                working_set: copies * bytes,
                check: check.map_err(|failed| failed.to_string()),
            })
        })
        .collect::<Result<Vec<_>>>()?;
    if all.iter().all(|m| m.check.is_err()) {
        return Ok(all);
    }
    let mut ring = Ring::new(application, copies)?;
    let gpu = application.inputs().first().map(Tensor::device).filter(|_| !on_processor(application));
    let turns = if all.len() > 1 { TURNS } else { 1 };
    let seconds = settings.seconds / turns as f64;
    for _ in 0..turns {
        for measured in all.iter_mut().filter(|m| m.check.is_ok()) {
            let samples = match gpu {
                Some(device) => ring.lines(device, seconds)?,
                None => with_isa(measured.variant, || ring.calls(seconds))??,
            };
            measured.samples.extend(samples.into_iter().map(six_digits));
        }
    }
    Ok(all)
}

impl Measured {
    pub(super) fn details(&self, machine: &Machine, ceilings: &Ceilings) -> Details {
        let application = &self.case.application;
        let bytes = self.cost.read + self.cost.written;
        let time = Summary::of(&self.samples);
        let here = on_processor(application);
        let (least, side) = ceilings.least_seconds(&self.cost, self.dtype, self.working_set);
        let (checked, worst, failure) = match &self.check {
            Ok(checked) => (checked.elements, six_digits(checked.worst), None),
            Err(failure) => (0, 0.0, Some(failure.clone())),
        };
        Details {
            op: application.name().into(),
            parameters: parameters(application),
            shapes: shapes(application),
            phases: self.case.phases.clone(),
            count: self.case.count(),
            device: application.inputs().first().map_or("?", |t| t.device().name()).into(),
            variant: if here { self.variant.name() } else { "–" }.into(),
            dtype: self.dtype.name().into(),
            flops: self.cost.flops,
            bytes,
            working_set: self.working_set,
            intensity: six_digits(self.cost.flops as f64 / bytes.max(1) as f64),
            time,
            percent: time.map(|t| six_digits(100.0 * least / t.median)),
            bound: machine.bound(least, side),
            checked,
            worst,
            failure,
        }
    }
}

/// Parameters without the type's name: `scale: 0.125, causal: true`.
fn parameters(application: &Application) -> String {
    let text = super::without_data(&application.parameters());
    let inner = text.split_once(" { ").and_then(|(_, rest)| rest.strip_suffix(" }"));
    inner.map_or_else(String::new, str::to_owned)
}

/// Inputs for people; the type is named where it changes.
fn shapes(application: &Application) -> String {
    let mut last = None;
    let each = application.inputs().iter().map(|t| {
        let layout = t.layout();
        let sizes: Vec<String> = layout.dims.iter().map(ToString::to_string).collect();
        let mut text = if sizes.is_empty() { "scalar".into() } else { sizes.join("×") };
        let rank = layout.dims.len();
        if layout.dims.iter().zip(layout.strides.iter()).any(|(&d, &s)| d > 1 && s == 0) {
            text.push('↔');
        } else if rank >= 2
            && layout.dims[rank - 1] > 1
            && layout.strides[rank - 1] > layout.strides[rank - 2]
        {
            text.push('ᵀ');
        }
        if last.replace(t.dtype()) != Some(t.dtype()) {
            text = format!("{text} {}", t.dtype());
        }
        text
    });
    let mut text = each.collect::<Vec<_>>().join(", ");
    // Where the result has another shape than the first input, it is what one looks for.
    if let Ok(outputs) = application.output_specs()
        && let (Some(out), Some(first), 0) =
            (outputs.first(), application.inputs().first(), application.targets())
        && out.dims != first.dims()
    {
        let sizes: Vec<String> = out.dims.iter().map(ToString::to_string).collect();
        text.push_str(" → ");
        text.push_str(&if sizes.is_empty() { "scalar".into() } else { sizes.join("×") });
    }
    text
}

impl Settings {
    /// Paths by name: `all` (instruction sets), `reference` (plain loops, one thread) or names divided by commas.
    ///
    /// # Errors
    /// If a path is unknown or this machine does not offer it.
    pub fn variants(text: &str) -> Result<Vec<Isa>> {
        if text == "all" {
            return Ok(Isa::offered().collect());
        }
        let mut paths = Vec::new();
        for name in text.split(',').map(str::trim) {
            let isa = Isa::parse(name).ok_or_else(|| {
                Error::Input(format!(
                    "no variant is called `{name}`; there are all, reference, portable, avx2, avx512 and avx512bf16"
                ))
            })?;
            if isa > Isa::detect() {
                return Err(Error::Input(format!(
                    "the variant {name} needs instructions that this machine lacks; it offers {}",
                    Isa::detect().name()
                )));
            }
            if !paths.contains(&isa) {
                paths.push(isa);
            }
        }
        Ok(paths)
    }
}
