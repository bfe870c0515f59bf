//! From values to places, and the ticks between.

/// How an axis maps values.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Scale {
    /// Evenly.
    Linear,
    /// By powers of ten; shows positive values only.
    Log,
}

impl Scale {
    /// Where the scale puts a value; `None` if it cannot show it.
    fn position(self, value: f64) -> Option<f64> {
        match self {
            Scale::Linear => (value.abs() <= LARGEST).then_some(value),
            Scale::Log => (value > 0.0 && value <= LARGEST).then(|| value.log10()),
        }
    }
}

/// A labelled value.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Tick {
    pub(super) value: f64,
    pub(super) label: String,
}

/// An axis from `start` to `end` in picture units (either may be larger).
pub(super) struct Axis {
    scale: Scale,
    /// Ends of the shown range: values, or their decimal logarithms.
    low: f64,
    high: f64,
    pub(super) start: f64,
    pub(super) end: f64,
}

/// Values beyond this are not shown, so that no difference overflows.
const LARGEST: f64 = 1e300;
const TICKS: f64 = 6.0;

impl Axis {
    /// Covers all values it can show; `margin` adds a little room at both ends.
    pub(super) fn new(
        scale: Scale,
        values: impl Iterator<Item = f64>,
        start: f64,
        end: f64,
        margin: bool,
    ) -> Self {
        let mut axis = Self { scale, low: f64::INFINITY, high: f64::NEG_INFINITY, start, end };
        for v in values.filter_map(|v| scale.position(v)) {
            axis.low = axis.low.min(v);
            axis.high = axis.high.max(v);
        }
        if axis.low > axis.high {
            (axis.low, axis.high) = (0.0, 1.0);
        }
        let mut room = if margin { 0.04 * (axis.high - axis.low) } else { 0.0 };
        if axis.high - axis.low <= 1e-9 * axis.high.abs() || axis.high == axis.low {
            room = if axis.high == 0.0 || scale == Scale::Log { 0.5 } else { 0.1 * axis.high.abs() };
        }
        axis.low -= room;
        axis.high += room;
        axis
    }

    /// Picture coordinate of a value.
    pub(super) fn place(&self, value: f64) -> Option<f64> {
        let share = (self.scale.position(value)? - self.low) / (self.high - self.low);
        Some(self.start + share * (self.end - self.start))
    }

    /// Round values inside the range, in ascending order.
    pub(super) fn ticks(&self) -> Vec<Tick> {
        match self.scale {
            Scale::Linear => linear_ticks(self.low, self.high),
            Scale::Log => self.log_ticks(),
        }
    }

    fn log_ticks(&self) -> Vec<Tick> {
        let decades = self.high - self.low;
        let mantissas: &[f64] = match decades {
            d if d > 3.0 => &[1.0],
            d if d > 1.2 => &[1.0, 3.0],
            _ => &[1.0, 2.0, 5.0],
        };
        let every = (decades / TICKS).ceil().max(1.0) as i32;
        let mut ticks = Vec::new();
        for exponent in self.low.floor() as i32..=self.high.floor() as i32 {
            if exponent.rem_euclid(every) != 0 {
                continue;
            }
            for m in mantissas {
                // Parsing the decimal text gives the nearest double, which a product of powers does not.
                let value: f64 = format!("{m}e{exponent}").parse().unwrap_or(0.0);
                if self.scale.position(value).is_some_and(|p| p >= self.low && p <= self.high) {
                    ticks.push(Tick { value, label: short(value) });
                }
            }
        }
        if ticks.len() >= 2 {
            return ticks;
        }
        // Less than a step between mantissas: the curve is nearly flat, and even steps serve better.
        let even = linear_ticks(10f64.powf(self.low), 10f64.powf(self.high));
        even.into_iter().filter(|t| t.value > 0.0).collect()
    }
}

/// Multiples of 1, 2 or 5 times a power of ten.
fn linear_ticks(low: f64, high: f64) -> Vec<Tick> {
    let rough = (high - low) / TICKS;
    let power = rough.log10().floor();
    let unit = 10f64.powf(power);
    let step = unit * [1.0, 2.0, 5.0].into_iter().find(|m| m * unit >= rough).unwrap_or(10.0);
    if !step.is_normal() {
        return vec![];
    }
    let (first, last) = ((low / step).ceil(), (high / step).floor());
    let decimals = (-step.log10().floor()).clamp(0.0, 17.0) as usize;
    let largest = low.abs().max(high.abs());
    let count = ((last - first).clamp(0.0, 20.0)) as usize;
    (0..=count)
        .map(|i| {
            let value = (first + i as f64) * step;
            let label = if largest >= 1e6 || step < 1e-4 {
                short(if value.abs() < step / 2.0 { 0.0 } else { value })
            } else {
                format!("{:.decimals$}", if value.abs() < step / 2.0 { 0.0 } else { value })
            };
            Tick { value, label }
        })
        .collect()
}

/// Up to four significant digits, plain where that is short: 0.003, 250, 1e-5, 2.5e6.
fn short(value: f64) -> String {
    let scientific = format!("{value:.3e}");
    let (mantissa, exponent) = scientific.split_once('e').unwrap_or((&scientific, "0"));
    let mantissa = mantissa.trim_end_matches('0').trim_end_matches('.');
    let small = exponent.parse().is_ok_and(|e: i32| (-3..6).contains(&e));
    if small {
        format!("{mantissa}e{exponent}").parse::<f64>().map_or(scientific.clone(), |v| v.to_string())
    } else {
        format!("{mantissa}e{exponent}")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn labels(scale: Scale, values: &[f64]) -> Vec<String> {
        let axis = Axis::new(scale, values.iter().copied(), 0.0, 100.0, false);
        axis.ticks().into_iter().map(|t| t.label).collect()
    }

    #[test]
    fn ticks_are_round() {
        assert_eq!(labels(Scale::Linear, &[0.0, 10.0]), ["0", "2", "4", "6", "8", "10"]);
        assert_eq!(labels(Scale::Linear, &[0.0, 0.31]), ["0.0", "0.1", "0.2", "0.3"]);
        assert_eq!(labels(Scale::Linear, &[-1.0, 1.0]), ["-1.0", "-0.5", "0.0", "0.5", "1.0"]);
        assert_eq!(labels(Scale::Linear, &[0.0, 2e-4]), ["0", "5e-5", "1e-4", "1.5e-4", "2e-4"]);
        assert_eq!(labels(Scale::Linear, &[0.0, 6e6]), ["0", "1e6", "2e6", "3e6", "4e6", "5e6", "6e6"]);
        assert_eq!(labels(Scale::Log, &[1e-4, 1.0]), ["1e-4", "0.001", "0.01", "0.1", "1"]);
        assert_eq!(labels(Scale::Log, &[0.5, 6.0]), ["0.5", "1", "2", "5"]);
        assert_eq!(
            labels(Scale::Log, &[1e-12, 1.0]),
            ["1e-12", "1e-10", "1e-8", "1e-6", "1e-4", "0.01", "1"]
        );
    }

    #[test]
    fn ends_map_to_ends() {
        let axis = Axis::new(Scale::Log, [0.0, 1.0, 100.0, f64::NAN].into_iter(), 300.0, 20.0, false);
        assert_eq!(axis.place(1.0), Some(300.0));
        assert_eq!(axis.place(10.0), Some(160.0));
        assert_eq!(axis.place(100.0), Some(20.0));
        assert_eq!(axis.place(0.0), None);
    }
}
