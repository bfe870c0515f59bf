//! One figure as a rival's program prints it: a JSON object on a line of its own. `benches/rivals/rival_bench.py`
//! describes the format for those who write a program.

use serde::{Deserialize, Serialize};

use crate::stats::median;

/// A figure.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Line {
    /// Who was measured.
    pub system: String,
    /// Of it, as it says itself.
    pub version: String,
    /// What, as `prefill 512`.
    pub figure: String,
    /// Of which shape or file.
    pub model: String,
    /// How they are stored, as `bf16`.
    pub weights: String,
    /// `tokens/s`, `s`, `B` or `GFLOP/s`.
    pub unit: String,
    /// Each repeat, in the unit.
    pub values: Vec<f64>,
    /// That it was given.
    pub threads: usize,
    /// Whatever else it says.
    #[serde(flatten)]
    pub about: serde_json::Map<String, serde_json::Value>,
}

/// Longest line that is read: longer ones are no figures.
const LONGEST: usize = 1 << 20;
/// More repeats than anyone has the time for.
const MOST_VALUES: usize = 10_000;
const UNITS: [&str; 4] = ["tokens/s", "s", "B", "GFLOP/s"];

impl Line {
    /// All figures in what a program printed. Lines that do not begin with a brace are its own talk.
    ///
    /// # Errors
    /// What is wrong, if a line that begins with a brace is no figure, or there is none at all.
    pub fn all(output: &str) -> Result<Vec<Self>, String> {
        let mut found = Vec::new();
        for text in output.lines().map(str::trim).filter(|text| text.starts_with('{')) {
            found.push(Self::parse(text).map_err(|reason| format!("{reason}: {}", excerpt(text)))?);
        }
        if found.is_empty() {
            return Err(match output.trim() {
                "" => "it printed nothing".into(),
                text => format!("it printed no figure, but: {}", excerpt(text)),
            });
        }
        Ok(found)
    }

    fn parse(text: &str) -> Result<Self, String> {
        if text.len() > LONGEST {
            return Err(format!("a line of {} bytes is no figure", text.len()));
        }
        let line: Self = serde_json::from_str(text).map_err(|e| format!("a line is no figure ({e})"))?;
        if !UNITS.contains(&line.unit.as_str()) {
            return Err(format!("`{}` is no unit; there are {}", line.unit, UNITS.join(", ")));
        }
        if line.values.is_empty() || line.values.len() > MOST_VALUES {
            return Err(format!("`{}` has {} values", line.figure, line.values.len()));
        }
        if let Some(value) = line.values.iter().find(|v| !v.is_finite() || **v <= 0.0) {
            return Err(format!("a value of `{}` is {value}", line.figure));
        }
        Ok(line)
    }

    /// Middle of the values.
    pub fn median(&self) -> f64 {
        median(&self.values)
    }

    /// Whether more of the unit is better.
    pub fn more_is_better(&self) -> bool {
        more_is_better(&self.unit)
    }
}

pub(super) fn more_is_better(unit: &str) -> bool {
    unit.ends_with("/s")
}

/// The beginning of a text, for an error.
fn excerpt(text: &str) -> String {
    let mut short: String = text.chars().map(|c| if c.is_control() { ' ' } else { c }).take(160).collect();
    if short.len() < text.len() {
        short.push('…');
    }
    short
}

#[cfg(test)]
mod tests {
    use super::*;

    const GOOD: &str = r#"{"system": "x", "version": "1", "figure": "prefill 512", "model": "m", "weights": "bf16",
        "unit": "tokens/s", "values": [2.0, 1.0, 3.0], "threads": 2, "own_cores": 1.9}"#;

    fn good() -> String {
        GOOD.replace('\n', " ")
    }

    #[test]
    fn figures_are_found_among_talk() {
        let output = format!("loading…\n  {}\nwarning: {{\n{}\n", good(), good());
        let lines = Line::all(&output).unwrap();
        assert_eq!(lines.len(), 2);
        assert_eq!((lines[0].median(), lines[0].more_is_better()), (2.0, true));
        assert_eq!(lines[0].about["own_cores"], 1.9);
    }

    #[test]
    fn hostile_output_is_refused_with_a_reason() {
        let changed = |from: &str, to: &str| {
            assert!(good().contains(from), "{from}");
            good().replace(from, to)
        };
        for (output, says) in [
            (String::new(), "nothing"),
            ("done in 3 s".into(), "no figure, but: done in 3 s"),
            ("\u{1b}[31mred".into(), "no figure"),
            ("{".into(), "no figure"),
            ("{\"values\": [1]}".into(), "missing field"),
            (changed("[2.0, 1.0, 3.0]", "[]"), "0 values"),
            (changed("[2.0, 1.0, 3.0]", "[0.0]"), "is 0"),
            (changed("[2.0, 1.0, 3.0]", "[-1.0]"), "is -1"),
            (changed("[2.0, 1.0, 3.0]", "[1e999]"), "no figure"),
            (changed("[2.0, 1.0, 3.0]", "[NaN]"), "no figure"),
            (changed("[2.0, 1.0, 3.0]", "3.0"), "no figure"),
            (changed("tokens/s", "bananas"), "`bananas` is no unit"),
            (changed("\"threads\": 2", "\"threads\": -2"), "no figure"),
            (format!("{}\n{{\"half\": ", good()), "no figure"),
            (format!("{{\"x\": \"{}\"}}", "y".repeat(2 << 20)), "bytes is no figure"),
        ] {
            let error = Line::all(&output).unwrap_err();
            assert!(error.contains(says) && error.len() < 400, "{error}");
        }
    }
}
