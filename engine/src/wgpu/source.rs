//! Assembling the WGSL source of a kernel. `shaders/README.md` describes the directives for those who write kernels:
//!
//! ```text
//! #include "common/x.wgsl"      the file's text, once
//! #const NAME = DEFAULT         a constant; the launch may give another value
//! #repeat i N … #end            the lines N times, `$i` replaced by 0, 1, …; N is a number or a constant
//! #if NAME … #else … #end       the lines before `#else` where the constant is true, else those after it
//! #enable NAME                  the module enables an extension, which browsers do not have
//! #params                       binds `struct Params` as the uniform `p`
//! #bind read x                  a storage buffer, its element type chosen by the launch: `load_x(i)`, …
//! #bind write y: u32            … or fixed; `write` is a fresh output, `update` holds old values
//! #bind table map               256 f32 in a uniform
//! #view x                       `at_x(i)`: where element `i`, row-major, of the view `p.x` lies
//! #fault                        `fault(value, place)` reports a bad index
//! ```
//!
//! WGSL has neither bf16 nor bytes: every tensor is an array of `u32` words, and the accessors that `#bind` writes take
//! elements out of words and put them in.

use std::borrow::Cow;
use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

use super::accessors::{FAULT, TABLE, accessors};
use crate::DType;

/// Invocations of a workgroup of elementwise kernels.
pub(super) const WORKGROUP: u32 = 256;

macro_rules! shaders {
    ($($name:literal),* $(,)?) => {
        /// Every file under `shaders/`, by its path without the ending.
        pub(super) const SHADERS: &[(&str, &str)] = &[
            $(($name, include_str!(concat!(env!("CARGO_MANIFEST_DIR"), "/../shaders/", $name, ".wgsl")))),*
        ];
    };
}

shaders![
    "common/adamw",
    "common/attention",
    "common/columns",
    "common/convert",
    "common/dropout",
    "common/elementwise",
    "common/float",
    "common/fold",
    "common/gelu",
    "common/gemm",
    "common/gemm_cooperative",
    "common/gemv",
    "common/grid",
    "common/invocation",
    "common/linear_nf4",
    "common/lora",
    "common/math",
    "common/matmul",
    "common/order",
    "common/packed",
    "common/parts",
    "common/rows",
    "common/sort",
    "common/trig",
    "common/view",
    "adamw",
    "adamw8bit",
    "add_rms_norm",
    "affine",
    "argmax",
    "attention",
    "attention_decode",
    "attention_grad_delta",
    "attention_grad_kv",
    "attention_grad_q",
    "binary",
    "burst",
    "cast",
    "cross_entropy",
    "cross_entropy_grad",
    "dequantize_blockwise",
    "dropout",
    "embedding",
    "embedding_grad",
    "gated_silu",
    "gated_silu_grad",
    "gelu",
    "gelu_grad",
    "layer_norm",
    "layer_norm_grad",
    "linear_nf4",
    "linear_nf4_cooperative",
    "linear_nf4_decode",
    "linear_nf4_grad",
    "linear_nf4_thin",
    "lora",
    "lora_thin",
    "matmul",
    "matmul_cooperative",
    "matmul_thin",
    "norm_grad_weight",
    "quantize_absmax",
    "quantize_blockwise",
    "reduce",
    "reduce_rows",
    "rms_norm",
    "rms_norm_grad",
    "rope",
    "rope_write",
    "scatter_rows",
    "scatter_rows_index",
    "sgd",
    "split_sum",
    "top_k",
    "top_k_chunks",
    "top_k_merge",
    "top_k_sort",
    "top_k_take",
    "unary",
    "write",
];

/// How a kernel uses a tensor.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Access {
    /// Reads it.
    Read,
    /// Writes it; an invocation owns whole words.
    Whole,
    /// Writes it; invocations share words and go through atomics.
    Shared,
    /// Reads it as a uniform: a table of 256 f32.
    Uniform,
}

/// What a launch decides about a kernel's source: the key of the pipeline cache.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Variant {
    /// Bound tensors by name.
    pub tensors: BTreeMap<&'static str, (DType, Access)>,
    /// Constants by name.
    pub constants: BTreeMap<&'static str, Value>,
    /// Views that are contiguous.
    pub dense: BTreeSet<&'static str>,
    /// Tensors that are read 16 bytes at a time.
    pub wide: BTreeSet<&'static str>,
}

/// Value of a `#const`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Value {
    /// `u32`
    Number(u32),
    /// `bool`
    Flag(bool),
}

impl From<u32> for Value {
    fn from(n: u32) -> Self {
        Self::Number(n)
    }
}

impl From<bool> for Value {
    fn from(flag: bool) -> Self {
        Self::Flag(flag)
    }
}

impl fmt::Display for Value {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Number(n) => write!(f, "{n}u"),
            Self::Flag(flag) => write!(f, "{flag}"),
        }
    }
}

/// What a binding is, in the order of their numbers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Binding {
    /// The uniform `p`.
    Params,
    /// A storage buffer.
    Tensor {
        /// Its name.
        name: String,
        /// How.
        access: Access,
    },
    /// Where bad indices are reported.
    Fault,
}

/// A kernel's source with its bindings.
#[derive(Debug)]
pub struct Source {
    /// WGSL.
    pub text: String,
    /// By their numbers.
    pub bindings: Vec<Binding>,
}

/// A folder whose files stand in for the shaders of this build: a kernel is changed and measured without compiling.
const FOLDER: &str = "ROENTGEN_WGPU_SHADERS";

/// Text of the file `name`.
fn file(name: &str) -> Result<Cow<'static, str>, String> {
    let found = SHADERS.iter().find(|(n, _)| *n == name);
    let (_, text) = found.ok_or_else(|| format!("no shader {name}"))?;
    match std::env::var_os(FOLDER) {
        None => Ok(Cow::Borrowed(text)),
        Some(folder) => {
            let path = std::path::Path::new(&folder).join(format!("{name}.wgsl"));
            let text = std::fs::read_to_string(&path);
            text.map(Cow::Owned).map_err(|e| format!("{FOLDER}: {}: {e}", path.display()))
        }
    }
}

/// The assembled source of kernel `name`.
///
/// # Errors
/// A text that names the line, for defects in a shader file or its launch.
pub fn assemble(name: &str, variant: &Variant) -> Result<Source, String> {
    let mut assembly = Assembly {
        variant,
        text: String::new(),
        bindings: Vec::new(),
        included: Vec::new(),
        numbers: BTreeMap::new(),
        flags: BTreeMap::new(),
        enables: String::new(),
    };
    assembly.file("common/float")?;
    assembly.file(name)?;
    for bound in variant.tensors.keys() {
        let known = |b: &Binding| matches!(b, Binding::Tensor { name, .. } if name == bound);
        if !assembly.bindings.iter().any(known) {
            return Err(format!("{name} does not bind {bound}"));
        }
    }
    Ok(Source { text: assembly.enables + &assembly.text, bindings: assembly.bindings })
}

/// Index of the `#end` that closes a `#repeat` or `#if` before these lines, and of the `#else` between.
fn matching_end(lines: &[String]) -> Option<(usize, Option<usize>)> {
    let (mut open, mut otherwise) = (1, None);
    for (i, line) in lines.iter().enumerate() {
        let line = line.trim_start();
        if line.starts_with("#repeat ") || line.starts_with("#if ") {
            open += 1;
        } else if line.starts_with("#else") && open == 1 {
            otherwise = Some(i);
        } else if line.starts_with("#end") {
            open -= 1;
            if open == 0 {
                return Some((i, otherwise));
            }
        }
    }
    None
}

struct Assembly<'a> {
    variant: &'a Variant,
    text: String,
    bindings: Vec<Binding>,
    included: Vec<String>,
    /// Constants that are numbers.
    numbers: BTreeMap<String, u32>,
    /// Constants that are true or false.
    flags: BTreeMap<String, bool>,
    /// What a module begins with.
    enables: String,
}

impl Assembly<'_> {
    fn file(&mut self, name: &str) -> Result<(), String> {
        if self.included.iter().any(|n| n == name) {
            return Ok(());
        }
        self.included.push(name.into());
        let lines: Vec<String> = file(name)?.lines().map(str::to_owned).collect();
        self.lines(&lines, 1).map_err(|(number, e)| format!("{name}.wgsl:{number}: {e}"))
    }

    /// Lines of which the first is number `first`; an error comes with its line.
    fn lines(&mut self, lines: &[String], first: usize) -> Result<(), (usize, String)> {
        let mut i = 0;
        while i < lines.len() {
            let at = |e: String| (first + i, e);
            if let Some(rest) = lines[i].trim_start().strip_prefix("#repeat ") {
                let (name, count) = rest
                    .trim()
                    .split_once(' ')
                    .ok_or("expected #repeat NAME COUNT")
                    .map_err(|e| at(e.into()))?;
                let count = count.parse().ok().or_else(|| self.numbers.get(count).copied());
                let count = count.ok_or_else(|| at(format!("{rest}: no such number")))?;
                let (end, _) =
                    matching_end(&lines[i + 1..]).ok_or_else(|| at("#repeat without #end".into()))?;
                let body = &lines[i + 1..i + 1 + end];
                for n in 0..count {
                    let body: Vec<String> =
                        body.iter().map(|l| l.replace(&format!("${name}"), &n.to_string())).collect();
                    self.lines(&body, first + i + 1)?;
                }
                i += end + 2;
            } else if let Some(name) = lines[i].trim_start().strip_prefix("#if ") {
                let flag = self.flags.get(name.trim()).copied();
                let flag = flag.ok_or_else(|| at(format!("{name}: no such flag")))?;
                let rest = &lines[i + 1..];
                let (end, otherwise) = matching_end(rest).ok_or_else(|| at("#if without #end".into()))?;
                let body = match (flag, otherwise) {
                    (true, _) => 0..otherwise.unwrap_or(end),
                    (false, Some(otherwise)) => otherwise + 1..end,
                    (false, None) => end..end,
                };
                self.lines(&rest[body.clone()], first + i + 1 + body.start)?;
                i += end + 2;
            } else {
                self.line(&lines[i]).map_err(at)?;
                i += 1;
            }
        }
        Ok(())
    }

    fn line(&mut self, line: &str) -> Result<(), String> {
        let Some(directive) = line.strip_prefix('#') else {
            self.text.push_str(line);
            self.text.push('\n');
            return Ok(());
        };
        let (word, rest) = directive.split_once(' ').unwrap_or((directive, ""));
        let rest = rest.split("//").next().unwrap_or("").trim();
        match word {
            "include" => self.file(rest.trim_matches('"').trim_end_matches(".wgsl")),
            "const" => self.constant(rest),
            "enable" => {
                self.enables = format!("{}enable {rest};\n", self.enables);
                Ok(())
            }
            "params" => {
                let n = self.binding(Binding::Params);
                self.push(&format!("@group(0) @binding({n}) var<uniform> p: Params;"));
                Ok(())
            }
            "bind" => self.bind(rest),
            "view" => {
                self.file("common/view")?;
                let at = if self.variant.dense.contains(rest) {
                    format!("p.{rest}.words[3].x + i")
                } else {
                    format!("place_in(p.{rest}, i)")
                };
                self.push(&format!("fn at_{rest}(i: u32) -> u32 {{ return {at}; }}"));
                Ok(())
            }
            "fault" => {
                let n = self.binding(Binding::Fault);
                let text = FAULT.replace("NUMBER", &n.to_string());
                self.push(&text);
                Ok(())
            }
            _ => Err(format!("unknown directive #{word}")),
        }
    }

    fn push(&mut self, text: &str) {
        self.text.push_str(text);
        self.text.push('\n');
    }

    fn binding(&mut self, binding: Binding) -> usize {
        self.bindings.push(binding);
        self.bindings.len() - 1
    }

    fn constant(&mut self, rest: &str) -> Result<(), String> {
        let (name, default) = rest.split_once('=').ok_or("expected #const NAME = DEFAULT")?;
        let given = self.variant.constants.get(name.trim());
        let value = given.map_or_else(|| default.trim().to_owned(), Value::to_string);
        if let Ok(number) = value.trim_end_matches('u').parse() {
            self.numbers.insert(name.trim().to_owned(), number);
        }
        if let Ok(flag) = value.parse() {
            self.flags.insert(name.trim().to_owned(), flag);
        }
        self.push(&format!("const {} = {value};", name.trim()));
        Ok(())
    }

    fn bind(&mut self, rest: &str) -> Result<(), String> {
        let (mode, rest) = rest.split_once(' ').ok_or("expected #bind MODE NAME")?;
        let (name, fixed) = match rest.split_once(':') {
            Some((name, dtype)) => (name.trim(), Some(dtype.trim())),
            None => (rest.trim(), None),
        };
        let upper = name.to_uppercase();
        let Some(&(dtype, access)) = self.variant.tensors.get(name) else {
            // Not given: the kernel looks at the constant and never calls the accessor.
            let zero = match fixed {
                Some("u32" | "u8") => ("u32", "0u"),
                Some("i32") => ("i32", "0"),
                _ => ("f32", "0.0"),
            };
            self.push(&format!(
                "const {upper}_BOUND = false;\nfn load_{name}(i: u32) -> {} {{ return {}; }}",
                zero.0, zero.1
            ));
            if mode == "read" && fixed.is_none() {
                self.push(&format!("fn oct_{name}(i: u32) -> Oct {{ return Oct(); }}"));
            }
            if matches!(mode, "write" | "update") {
                self.push(&format!("fn put_{name}(i: u32, v: {}) {{}}", zero.0));
            }
            return Ok(());
        };
        if fixed.is_some_and(|fixed| fixed != dtype.name()) {
            return Err(format!("{name} is {dtype}"));
        }
        match (mode, access) {
            ("read", Access::Read)
            | ("write" | "update", Access::Whole | Access::Shared)
            | ("table", Access::Uniform) => {}
            _ => return Err(format!("#bind {mode} {name} and {access:?} do not fit")),
        }
        let n = self.binding(Binding::Tensor { name: name.into(), access });
        let text = if mode == "table" {
            TABLE.replace("NUMBER", &n.to_string()).replace("NAME", name)
        } else {
            accessors(name, n, dtype, access, self.variant.wide.contains(name))
        };
        self.push(&format!("const {upper}_BOUND = true;\n{text}"));
        Ok(())
    }
}

#[cfg(test)]
mod tests;
