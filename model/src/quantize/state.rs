//! The JSON text beside a quantised weight.

use engine::{Codebook, DType};
use serde::Deserialize;

/// What bitsandbytes notes about a quantised weight, in the order in which it is written.
#[derive(Clone, Debug, PartialEq)]
pub struct QuantState {
    /// NF4 or FP4.
    pub codebook: Codebook,
    /// Values that share a scale.
    pub block: usize,
    /// Type of the weight before.
    pub source: DType,
    /// `[out, in]`
    pub shape: [usize; 2],
    /// Of the scales, if they are codes too.
    pub nested: Option<NestedState>,
}

/// The second level of double quantisation.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct NestedState {
    /// Scales that share an absmax.
    pub block: usize,
    /// Added to every scale.
    pub offset: f32,
}

/// No other key may appear: bitsandbytes asserts the same.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Raw {
    quant_type: String,
    blocksize: u64,
    dtype: String,
    shape: Vec<u64>,
    nested_blocksize: Option<u64>,
    nested_dtype: Option<String>,
    nested_offset: Option<f64>,
}

/// Longest text looked at; a real one has some 200 bytes.
const LONGEST: usize = 4096;

impl QuantState {
    /// Reads the text.
    ///
    /// # Errors
    /// What is wrong with it, for a message that names the tensor.
    pub fn parse(text: &[u8]) -> Result<Self, String> {
        if text.len() > LONGEST {
            return Err(format!("the quantisation state has {} bytes, more than {LONGEST}", text.len()));
        }
        let raw: Raw = serde_json::from_slice(text)
            .map_err(|e| format!("the quantisation state is not what bitsandbytes writes: {e}"))?;
        let codebook = match raw.quant_type.as_str() {
            "nf4" => Codebook::Nf4,
            "fp4" => Codebook::Fp4,
            other => return Err(format!("quant_type is {:?}; nf4 and fp4 are supported", cut(other))),
        };
        let source = match raw.dtype.as_str() {
            "float32" => DType::F32,
            "float16" => DType::F16,
            "bfloat16" => DType::BF16,
            other => {
                return Err(format!("dtype is {:?}; float32, float16 or bfloat16 is expected", cut(other)));
            }
        };
        let size = |what: &str, n: u64| {
            usize::try_from(n)
                .ok()
                .filter(|&n| n.is_power_of_two() && (32..=4096).contains(&n))
                .ok_or_else(|| format!("{what} is {n}; a power of two from 32 to 4096 is expected"))
        };
        let shape = match raw.shape[..] {
            [out, inner] => u32::try_from(out).ok().zip(u32::try_from(inner).ok()),
            _ => None,
        };
        let shape = shape.map(|(out, inner)| [out as usize, inner as usize]).ok_or_else(|| {
            format!("shape is {:?}; [out, in] is expected", &raw.shape[..raw.shape.len().min(8)])
        })?;
        let nested = match (raw.nested_blocksize, raw.nested_dtype, raw.nested_offset) {
            (None, None, None) => None,
            (Some(block), Some(dtype), Some(offset)) => {
                if dtype != "float32" {
                    return Err(format!("nested_dtype is {:?}; float32 is expected", cut(&dtype)));
                }
                let offset = offset as f32;
                if !offset.is_finite() {
                    return Err("nested_offset is too large for an f32".into());
                }
                Some(NestedState { block: size("nested_blocksize", block)?, offset })
            }
            _ => {
                return Err(
                    "nested_blocksize, nested_dtype and nested_offset come together or not at all".into()
                );
            }
        };
        Ok(Self { codebook, block: size("blocksize", raw.blocksize)?, source, shape, nested })
    }

    /// The text as Python's `json.dumps` writes it.
    pub fn to_json(&self) -> String {
        use std::fmt::Write;

        let source = match self.source {
            DType::F16 => "float16",
            DType::BF16 => "bfloat16",
            _ => "float32",
        };
        let [out, inner] = self.shape;
        let mut text = format!(
            r#"{{"quant_type": "{}", "blocksize": {}, "dtype": "{source}", "shape": [{out}, {inner}]"#,
            self.codebook.name(),
            self.block
        );
        if let Some(NestedState { block, offset }) = self.nested {
            let offset = python_float(f64::from(offset));
            // Writing to a string cannot fail.
            let _ = write!(
                text,
                r#", "nested_blocksize": {block}, "nested_dtype": "float32", "nested_offset": {offset}"#
            );
        }
        text + "}"
    }
}

fn cut(text: &str) -> String {
    text.chars().take(40).collect()
}

/// `repr(x)`: the shortest digits that give `x` back, with an exponent below 1e-4 and from 1e16 on.
fn python_float(x: f64) -> String {
    let scientific = format!("{x:e}");
    let (digits, exponent) = scientific.split_once('e').unwrap_or((&scientific, "0"));
    let exponent: i32 = exponent.parse().unwrap_or(0);
    if x != 0.0 && !(-4..16).contains(&exponent) {
        let sign = if exponent < 0 { '-' } else { '+' };
        return format!("{digits}e{sign}{:02}", exponent.abs());
    }
    let plain = format!("{x}");
    if plain.contains('.') { plain } else { plain + ".0" }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn floats_as_python_writes_them() {
        let cases = [
            (0.129_918_411_374_092_1, "0.1299184113740921"),
            (0.0, "0.0"),
            (1.0, "1.0"),
            (1e-5, "1e-05"),
            (1.5e-7, "1.5e-07"),
            (0.0001, "0.0001"),
            (123_456.0, "123456.0"),
            (1e16, "1e+16"),
            (2.5e120, "2.5e+120"),
        ];
        for (x, text) in cases {
            assert_eq!(python_float(x), text);
        }
    }

    #[test]
    fn hostile_texts_are_refused() {
        let good = r#"{"quant_type": "nf4", "blocksize": 64, "dtype": "bfloat16", "shape": [96, 128], "nested_blocksize": 256, "nested_dtype": "float32", "nested_offset": 0.1299184113740921}"#;
        let state = QuantState::parse(good.as_bytes()).unwrap();
        assert_eq!(state.to_json(), good);
        let refused = |from: &str, to: &str, says: &str| {
            let text = good.replace(from, to);
            assert_ne!(text, good);
            let error = QuantState::parse(text.as_bytes()).unwrap_err();
            assert!(error.contains(says), "{error}");
        };
        refused("nf4", "int4", "quant_type");
        refused("64", "63", "blocksize");
        refused("64", "18446744073709551615", "blocksize");
        refused("64", "0", "blocksize");
        refused("256", "8", "nested_blocksize");
        refused("bfloat16", "int8", "dtype");
        refused("[96, 128]", "[96]", "[out, in]");
        refused("[96, 128]", "[-96, 128]", "invalid value");
        refused("[96, 128]", "[18446744073709551615, 2]", "[out, in]");
        refused("0.1299184113740921", "1e300", "nested_offset");
        refused("0.1299184113740921", "NaN", "not what");
        refused(r#", "nested_dtype": "float32""#, "", "come together");
        refused(r#""blocksize": 64, "#, "", "missing field");
        refused("{", r#"{"code": 1, "#, "unknown field");
        assert!(QuantState::parse(&vec![b' '; 5000]).unwrap_err().contains("more than"));
        assert!(QuantState::parse(b"\xff").is_err());
        assert!(QuantState::parse(b"").is_err());
    }
}
