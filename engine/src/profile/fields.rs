//! What a span of an operation says, and reading it back.

use std::fmt;

use tracing::Span;
use tracing::field::{Field, Visit};

use crate::DType;
use crate::backend::Device;
use crate::op::{Cost, Spec};
use crate::profile::intern::mix;
use crate::profile::{OP, Operation};

/// Shapes and types of an application: `bf16[1,64,576] bf16[576] -> bf16[1,64,576]`.
struct Shapes<'a> {
    inputs: &'a [Spec],
    outputs: &'a [Spec],
}

impl fmt::Debug for Shapes<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (i, spec) in self.inputs.iter().enumerate() {
            let space = if i == 0 { "" } else { " " };
            write!(f, "{space}{}", Shape(spec))?;
        }
        f.write_str(" ->")?;
        self.outputs.iter().try_for_each(|spec| write!(f, " {}", Shape(spec)))
    }
}

struct Shape<'a>(&'a Spec);

impl fmt::Display for Shape<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}[", self.0.dtype.name())?;
        for (i, dim) in self.0.dims.iter().enumerate() {
            let comma = if i == 0 { "" } else { "," };
            write!(f, "{comma}{dim}")?;
        }
        f.write_str("]")
    }
}

/// One number for everything that the other fields say, so that a recorder that has seen it need not read them.
fn key(name: &str, device: &str, cost: &Cost, inputs: &[Spec], outputs: &[Spec]) -> u64 {
    let mut key = mix(mix(0, name.as_bytes()), device.as_bytes());
    let mut add = |x: u64| {
        key = (key ^ x).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    };
    [cost.flops, cost.read, cost.written, inputs.len() as u64].into_iter().for_each(&mut add);
    for spec in inputs.iter().chain(outputs) {
        add((spec.dtype as u64) << 8 | spec.dims.len() as u64);
        spec.dims.iter().for_each(|&dim| add(dim as u64));
    }
    key ^ key >> 32
}

#[inline(never)]
pub(super) fn describe(
    name: &'static str,
    device: &Device,
    cost: &Cost,
    inputs: &[Spec],
    outputs: &[Spec],
) -> Span {
    let device = device.name();
    let dtype = inputs.iter().map(|spec| spec.dtype).find(|dtype| dtype.is_float()).map_or("", DType::name);
    let shapes = Shapes { inputs, outputs };
    tracing::trace_span!(
        target: OP,
        "op",
        key = key(name, device, cost, inputs, outputs),
        name,
        device,
        dtype,
        flops = cost.flops,
        read = cost.read,
        written = cost.written,
        ?shapes
    )
}

/// Reads the key alone: the first field.
#[derive(Default)]
pub(super) struct Key(pub(super) u64);

impl Visit for Key {
    fn record_u64(&mut self, field: &Field, value: u64) {
        if field.index() == 0 {
            self.0 = value;
        }
    }
    fn record_str(&mut self, _: &Field, _: &str) {}
    fn record_debug(&mut self, _: &Field, _: &dyn fmt::Debug) {}
}

/// Reads everything.
#[derive(Default)]
pub(super) struct Whole(pub(super) Operation);

impl Visit for Whole {
    fn record_u64(&mut self, field: &Field, value: u64) {
        match field.name() {
            "flops" => self.0.cost.flops = value,
            "read" => self.0.cost.read = value,
            "written" => self.0.cost.written = value,
            _ => {}
        }
    }
    fn record_str(&mut self, field: &Field, value: &str) {
        match field.name() {
            "name" => value.clone_into(&mut self.0.name),
            "device" => value.clone_into(&mut self.0.device),
            "dtype" => value.clone_into(&mut self.0.dtype),
            _ => {}
        }
    }
    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        if field.name() == "shapes" {
            self.0.shapes = format!("{value:?}");
        }
    }
}

/// Gives the texts of a span or event to a function, in the order of its fields; numbers are kept.
pub(super) struct Texts<F> {
    pub(super) on_text: F,
    /// The last signed number.
    pub(super) number: i64,
}

impl<F: FnMut(&str)> Visit for Texts<F> {
    fn record_i64(&mut self, _: &Field, value: i64) {
        self.number = value;
    }
    fn record_str(&mut self, _: &Field, value: &str) {
        (self.on_text)(value);
    }
    fn record_debug(&mut self, _: &Field, _: &dyn fmt::Debug) {}
}

/// Reads the times of a device.
#[derive(Default)]
pub(super) struct Times {
    pub(super) start: u64,
    pub(super) end: u64,
}

impl Visit for Times {
    fn record_u64(&mut self, field: &Field, value: u64) {
        match field.name() {
            "start" => self.start = value,
            "end" => self.end = value,
            _ => {}
        }
    }
    fn record_debug(&mut self, _: &Field, _: &dyn fmt::Debug) {}
}
