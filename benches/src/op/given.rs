//! Operations on shapes given by hand.
//!
//! A family says in which order it takes shapes and what its settings are, makes random inputs and applies itself
//! through the method that models use. What it applies is captured like a model's; with gradients the backward pass is
//! captured too, so `attention_grad` is asked for with the shapes of `attention`.

use std::collections::BTreeMap;

use engine::ops::{
    AdamW, Dropout, GeluKind, Lora, LoraTerm, Moments8bit, QuantizeBlockwise, RopeKind, RopeWrite, Sgd,
};
use engine::{Codebook, DType, Device, QuantConfig, Quantized, Rng, Tensor, apply, capture};

use super::Case;
use crate::{Error, Result};

/// A shape, with a type if it is not that of the others.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Shape {
    /// Sizes.
    pub dims: Vec<usize>,
    /// Element type.
    pub dtype: Option<DType>,
}

/// More elements than a shape given by hand may have.
const MOST: usize = 1 << 31;

/// Parses `1024x576,1536x576:bf16`.
///
/// # Errors
/// If that is no list of shapes, or one is too large.
pub fn shapes(text: &str) -> Result<Vec<Shape>> {
    text.split(',')
        .map(|part| {
            let wrong = |why: &str| {
                Error::Input(format!(
                    "--shape {text}: `{part}` {why}; write sizes as 1024x576, or 1024x576:bf16"
                ))
            };
            let (sizes, dtype) = match part.trim().split_once(':') {
                Some((sizes, name)) => {
                    (sizes, Some(dtype(name).ok_or_else(|| wrong("has an unknown type"))?))
                }
                None => (part.trim(), None),
            };
            let dims = sizes.split(['x', '×']).map(|n| n.trim().parse::<usize>().ok().filter(|&n| n > 0));
            let dims: Vec<usize> = dims.collect::<Option<_>>().ok_or_else(|| wrong("is no shape"))?;
            let count = dims.iter().try_fold(1usize, |n, &d| n.checked_mul(d)).filter(|&n| n <= MOST);
            count.ok_or_else(|| wrong("has more than 2³¹ elements"))?;
            Ok(Shape { dims, dtype })
        })
        .collect()
}

/// An element type by its name.
pub fn dtype(name: &str) -> Option<DType> {
    DType::ALL.into_iter().find(|d| d.name() == name)
}

/// What a family makes its inputs from.
struct Makings<'a> {
    shapes: &'a [Shape],
    settings: &'a BTreeMap<String, String>,
    dtype: DType,
    tracked: bool,
    device: &'a Device,
    rng: Rng,
    family: &'static Family,
}

/// An operation that takes shapes.
struct Family {
    name: &'static str,
    /// Its shapes, in order; those in brackets may be left out.
    takes: &'static str,
    least: usize,
    most: usize,
    /// Settings and their defaults.
    settings: &'static [(&'static str, &'static str)],
    run: fn(&mut Makings<'_>) -> Result<Option<Tensor>>,
}

impl Makings<'_> {
    fn dims(&self, i: usize) -> Vec<usize> {
        self.shapes[i.min(self.shapes.len() - 1)].dims.clone()
    }

    /// Normal values of the shape number `i`, or of the last one given.
    fn input(&mut self, i: usize) -> Result<Tensor> {
        let dtype = self.shapes[i.min(self.shapes.len() - 1)].dtype.unwrap_or(self.dtype);
        let dims = self.dims(i);
        self.normal(&dims, dtype)
    }

    fn optional(&mut self, i: usize) -> Result<Option<Tensor>> {
        (i < self.shapes.len()).then(|| self.input(i)).transpose()
    }

    fn normal(&mut self, dims: &[usize], dtype: DType) -> Result<Tensor> {
        let t = Tensor::randn(dims, 1.0, dtype, &mut self.rng, self.device)?;
        Ok(if self.tracked && dtype.is_float() { t.tracked() } else { t })
    }

    fn integers(&mut self, dims: &[usize], below: usize, dtype: DType) -> Result<Tensor> {
        let n = dims.iter().product();
        let values: Vec<f64> = (0..n).map(|_| self.rng.below(below.max(1)) as f64).collect();
        Ok(Tensor::from_f64(&values, dims, dtype, self.device)?)
    }

    /// A vector as long as the rows of `x`.
    fn per_column(&mut self, x: &Tensor) -> Result<Tensor> {
        let n = x.dims().last().copied().unwrap_or(1);
        self.normal(&[n], x.dtype())
    }

    fn text(&self, key: &str) -> &str {
        let default = self.family.settings.iter().find(|s| s.0 == key).map_or("", |s| s.1);
        self.settings.get(key).map_or(default, String::as_str)
    }

    fn wrong(&self, key: &str, expected: &str) -> Error {
        Error::Input(format!("--set {key}={}: expected {expected}", self.text(key)))
    }

    fn number<T: std::str::FromStr>(&self, key: &str) -> Result<T> {
        self.text(key).parse().map_err(|_| self.wrong(key, "a number"))
    }

    fn flag(&self, key: &str) -> Result<bool> {
        self.text(key).parse().map_err(|_| self.wrong(key, "true or false"))
    }

    fn one_of<T: Copy>(&self, key: &str, choices: &[(&str, T)]) -> Result<T> {
        let found = choices.iter().find(|c| c.0 == self.text(key));
        let names: Vec<&str> = choices.iter().map(|c| c.0).collect();
        found.map(|c| c.1).ok_or_else(|| self.wrong(key, &names.join(", ")))
    }

    fn quantized(&mut self, i: usize) -> Result<Quantized> {
        let tracked = std::mem::replace(&mut self.tracked, false);
        let dims = self.dims(i);
        let weight = self.normal(&dims, DType::F32)?;
        self.tracked = tracked;
        let codebook = self.one_of("codes", &[("nf4", Codebook::Nf4), ("fp4", Codebook::Fp4)])?;
        let config = QuantConfig { codebook, block: self.number("block")?, double: self.flag("double")? };
        Ok(Quantized::quantize(&weight, &config)?)
    }

    fn adamw(&self) -> Result<AdamW> {
        Ok(AdamW {
            lr: self.number("lr")?,
            beta1: 0.9,
            beta2: 0.999,
            eps: 1e-8,
            weight_decay: 0.01,
            step: 1,
            grad_scale: 1.0,
        })
    }
}

macro_rules! family {
    ($name:literal, $takes:literal, $least:literal..=$most:literal, [$($key:literal = $default:literal),*], |$m:ident| $body:expr) => {
        Family {
            name: $name,
            takes: $takes,
            least: $least,
            most: $most,
            settings: &[$(($key, $default)),*],
            run: |$m| $body,
        }
    };
}

/// Everything that takes shapes; the first word of the method that models call, or the operation's name.
static FAMILIES: [Family; 31] = [
    family!("matmul", "A [batch…, M, K], B [batch…, K, N]", 2..=2, [], |m| {
        Ok(Some(m.input(0)?.matmul(&m.input(1)?)?))
    }),
    family!("linear", "x [rows…, in], weight [out, in], (bias [out])", 2..=3, [], |m| {
        Ok(Some(m.input(0)?.linear(&m.input(1)?, m.optional(2)?.as_ref())?))
    }),
    family!(
        "linear_nf4",
        "x [rows…, in], weight [out, in], (bias [out])",
        2..=3,
        ["codes" = "nf4", "block" = "64", "double" = "true", "rank" = "0", "dropout" = "0"],
        |m| {
            let (x, weight, bias) = (m.input(0)?, m.quantized(1)?, m.optional(2)?);
            let (rank, p) = (m.number::<usize>("rank")?, m.number::<f32>("dropout")?);
            if rank == 0 {
                return Ok(Some(x.linear_nf4(&weight, bias.as_ref(), None)?));
            }
            let [out, inner] = weight.dims();
            let (a, b) = (m.normal(&[rank, inner], DType::F32)?, m.normal(&[out, rank], DType::F32)?);
            let term = LoraTerm { scale: 1.0, dropout: (p > 0.0).then_some(Dropout { p, seed: 1 }) };
            Ok(Some(x.linear_nf4(&weight, bias.as_ref(), Some(Lora { a: &a, b: &b, term }))?))
        }
    ),
    family!(
        "linear_nf4_group",
        "x [rows…, in], weight [out, in], (more weights)",
        2..=8,
        ["codes" = "nf4", "block" = "64", "double" = "true"],
        |m| {
            let x = m.input(0)?;
            let weights = (1..m.shapes.len()).map(|i| m.quantized(i)).collect::<Result<Vec<_>>>()?;
            Ok(x.linear_nf4_group(&weights.iter().collect::<Vec<_>>())?.pop())
        }
    ),
    family!(
        "attention",
        "q [B, Sq, Hq, D], (k [B, Sk, Hkv, D]); v is like k, k like q",
        1..=2,
        ["causal" = "true", "scale" = "auto"],
        |m| {
            let (q, k, v) = (m.input(0)?, m.input(1)?, m.input(1)?);
            let d = q.dims().last().copied().unwrap_or(1).max(1);
            let scale =
                if m.text("scale") == "auto" { (d as f32).sqrt().recip() } else { m.number("scale")? };
            Ok(Some(q.attention(&k, &v, None, scale, m.flag("causal")?)?))
        }
    ),
    family!("rms_norm", "x [rows…, n]", 1..=1, ["eps" = "1e-5"], |m| {
        let x = m.input(0)?;
        let w = m.per_column(&x)?;
        Ok(Some(x.rms_norm(&w, m.number("eps")?)?))
    }),
    family!("add_rms_norm", "x [rows…, n], (y)", 1..=2, ["eps" = "1e-5"], |m| {
        let (x, y) = (m.input(0)?, m.input(1)?);
        let w = m.per_column(&x)?;
        Ok(Some(x.add_rms_norm(&y, &w, m.number("eps")?)?.1))
    }),
    family!("layer_norm", "x [rows…, n]", 1..=1, ["eps" = "1e-6"], |m| {
        let x = m.input(0)?;
        let (w, b) = (m.per_column(&x)?, m.per_column(&x)?);
        Ok(Some(x.layer_norm(&w, &b, m.number("eps")?)?))
    }),
    family!("gelu", "x", 1..=1, ["kind" = "tanh"], |m| {
        let kind = m.one_of("kind", &[("tanh", GeluKind::Tanh), ("erf", GeluKind::Erf)])?;
        Ok(Some(m.input(0)?.gelu(kind)?))
    }),
    family!("gated_silu", "gate, (up)", 1..=2, [], |m| Ok(Some(m.input(0)?.gated_silu(&m.input(1)?)?))),
    family!("binary", "a, (b); b broadcasts, or is like a", 1..=2, ["kind" = "add"], |m| {
        type Method = fn(&Tensor, &Tensor) -> engine::Result<Tensor>;
        let methods: [(&str, Method); 4] =
            [("add", Tensor::add), ("sub", Tensor::sub), ("mul", Tensor::mul), ("div", Tensor::div)];
        Ok(Some(m.one_of("kind", &methods)?(&m.input(0)?, &m.input(1)?)?))
    }),
    family!("unary", "x", 1..=1, ["kind" = "exp"], |m| {
        type Method = fn(&Tensor) -> engine::Result<Tensor>;
        let methods: [(&str, Method); 4] = [
            ("exp", Tensor::exp),
            ("tanh", Tensor::tanh),
            ("sigmoid", Tensor::sigmoid),
            ("relu", Tensor::relu),
        ];
        Ok(Some(m.one_of("kind", &methods)?(&m.input(0)?)?))
    }),
    family!(
        "burst",
        "x [n] (of read, rounds is the number of sums)",
        1..=1,
        ["kind" = "multiply_adds", "rounds" = "1024"],
        |m| {
            let (x, rounds) = (m.input(0)?, m.number("rounds")?);
            Ok(Some(
                match m.one_of("kind", &[("multiply_adds", 0), ("products", 1), ("read", 2), ("triad", 3)])? {
                    0 => x.burst_multiply_adds(rounds)?,
                    1 => x.burst_products(rounds)?,
                    2 => x.burst_read(rounds)?,
                    _ => x.burst_triad(&m.per_column(&x)?)?,
                },
            ))
        }
    ),
    family!("affine", "x", 1..=1, ["mul" = "2", "add" = "1"], |m| {
        Ok(Some(m.input(0)?.affine(m.number("mul")?, m.number("add")?)?))
    }),
    family!("cast", "x", 1..=1, ["to" = "f32"], |m| {
        let to = dtype(m.text("to")).ok_or_else(|| m.wrong("to", "an element type"))?;
        let x = m.input(0)?;
        Ok(Some(if to == x.dtype() { x.copy()? } else { x.to_dtype(to)? }))
    }),
    family!("dropout", "x", 1..=1, ["p" = "0.1"], |m| Ok(Some(m.input(0)?.dropout(m.number("p")?, 1)?))),
    family!("rope", "x [B, S, H, D]", 1..=1, ["theta" = "10000", "kind" = "half"], |m| {
        let kind = m.one_of("kind", &[("half", RopeKind::Half), ("interleaved", RopeKind::Interleaved)])?;
        let x = m.input(0)?;
        let positions: Vec<u32> = (0..x.dim(1)? as u32).collect();
        let positions = Tensor::from_slice(&positions, &[positions.len()], m.device)?;
        Ok(Some(x.rope(&positions, m.number("theta")?, kind)?))
    }),
    family!(
        "rope_write",
        "q [B, S, H, D], (k [B, S, Hkv, D]); v is like k, the cache of the same type",
        1..=2,
        ["theta" = "10000", "kind" = "half"],
        |m| {
            m.tracked = false;
            let kinds = [("half", RopeKind::Half), ("interleaved", RopeKind::Interleaved)];
            let op = RopeWrite { kind: m.one_of("kind", &kinds)?, theta: m.number("theta")? };
            let (q, k, v) = (m.input(0)?, m.input(1)?, m.input(1)?);
            let positions: Vec<u32> = (0..q.dim(1)? as u32).collect();
            let positions = Tensor::from_slice(&positions, &[positions.len()], m.device)?;
            let cache = || Tensor::zeros(&k.dims(), k.dtype(), m.device);
            Tensor::rope_write([&q, &k, &v], &positions, [&cache()?, &cache()?], &op)?;
            Ok(None)
        }
    ),
    family!("embedding", "table [V, n], ids […]", 2..=2, [], |m| {
        let table = m.input(0)?;
        let ids = m.integers(&m.dims(1), table.dim(0)?, DType::U32)?;
        Ok(Some(table.embedding(&ids)?))
    }),
    family!("scatter_rows", "base [R, n], rows [M, n]", 2..=2, [], |m| {
        let (base, rows) = (m.input(0)?, m.input(1)?);
        let index: Vec<u32> = (0..rows.dim(0)? as u32).collect();
        Ok(Some(base.scatter_rows(&rows, &Tensor::from_slice(&index, &[index.len()], m.device)?)?))
    }),
    family!("cross_entropy", "logits [R, V]", 1..=1, [], |m| {
        let logits = m.input(0)?;
        let labels = m.integers(&[logits.dim(0)?], logits.dim(1)?, DType::I32)?;
        Ok(Some(logits.cross_entropy(&labels, -100)?))
    }),
    family!("reduce", "x", 1..=1, ["kind" = "sum", "axis" = "0"], |m| {
        type Method = fn(&Tensor, &[usize]) -> engine::Result<Tensor>;
        let methods: [(&str, Method); 3] =
            [("sum", Tensor::sum), ("mean", Tensor::mean), ("max", Tensor::max)];
        Ok(Some(m.one_of("kind", &methods)?(&m.input(0)?, &[m.number("axis")?])?))
    }),
    family!("argmax", "x [rows…, n]", 1..=1, [], |m| Ok(Some(m.input(0)?.argmax()?))),
    family!("top_k", "x [rows…, n]", 1..=1, ["k" = "50"], |m| Ok(Some(
        m.input(0)?.top_k(m.number("k")?)?.0
    ))),
    family!("concat", "parts", 1..=8, ["axis" = "0"], |m| {
        let parts = (0..m.shapes.len()).map(|i| m.input(i)).collect::<Result<Vec<_>>>()?;
        Ok(Some(Tensor::concat(&parts.iter().collect::<Vec<_>>(), m.number("axis")?)?))
    }),
    family!("write", "target", 1..=1, [], |m| {
        m.tracked = false;
        m.input(0)?.write(&m.input(0)?)?;
        Ok(None)
    }),
    family!("adamw", "parameter", 1..=1, ["lr" = "1e-4"], |m| {
        m.tracked = false;
        let dims = m.dims(0);
        let (p, g) = (m.input(0)?, m.normal(&dims, m.dtype)?);
        let zeros = || Tensor::zeros(&dims, DType::F32, m.device);
        Tensor::adamw_step(&p, &zeros()?, &zeros()?, &g, &m.adamw()?)?;
        Ok(None)
    }),
    family!("adamw8bit", "parameter", 1..=1, ["lr" = "1e-4"], |m| {
        m.tracked = false;
        let dims = m.dims(0);
        let (p, g) = (m.input(0)?, m.normal(&dims, m.dtype)?);
        let codes = || Tensor::zeros(&dims, DType::U8, m.device);
        let blocks = dims.iter().product::<usize>().div_ceil(engine::ops::AdamW8bit::BLOCK);
        let absmax = || Tensor::zeros(&[blocks], DType::F32, m.device);
        let state = Moments8bit { m: codes()?, v: codes()?, absmax_m: absmax()?, absmax_v: absmax()? };
        Tensor::adamw8bit_step(&p, &state, &g, &m.adamw()?)?;
        Ok(None)
    }),
    family!(
        "dequantize_blockwise",
        "weight [out, in]",
        1..=1,
        ["codes" = "nf4", "block" = "64", "double" = "true"],
        |m| {
            m.quantized(0)?.dequantize(m.dtype)?;
            Ok(None)
        }
    ),
    family!("sgd", "parameter", 1..=1, ["lr" = "1e-2", "momentum" = "0.9"], |m| {
        m.tracked = false;
        let (p, g) = (m.input(0)?, m.input(0)?);
        let momentum: f64 = m.number("momentum")?;
        let op = Sgd { lr: m.number("lr")?, momentum, weight_decay: 0.0, grad_scale: 1.0 };
        let buffer = Tensor::zeros(&p.dims(), DType::F32, m.device)?;
        Tensor::sgd_step(&p, (momentum != 0.0).then_some(&buffer), &g, &op)?;
        Ok(None)
    }),
    family!("quantize_blockwise", "x", 1..=1, ["block" = "64"], |m| {
        m.tracked = false;
        let op = QuantizeBlockwise { codebook: Codebook::Nf4, block: m.number("block")? };
        apply(op, &[&m.input(0)?])?;
        Ok(None)
    }),
];

/// The cases of operation `name` on given shapes; a name that ends in `_grad` takes the shapes of the forward
/// operation.
///
/// # Errors
/// If the operation takes no shapes, or others than these, or a setting is unknown.
pub fn cases(
    name: &str,
    shapes: &[Shape],
    settings: &BTreeMap<String, String>,
    dtype: DType,
    device: &Device,
) -> Result<Vec<Case>> {
    let forward = name.strip_suffix("_grad");
    let families = || FAMILIES.iter();
    let family = families().find(|f| f.name == forward.unwrap_or(name)).ok_or_else(|| {
        let names: Vec<&str> = families().map(|f| f.name).collect();
        Error::Input(format!(
            "--shape: `{name}` takes no shapes by hand; those that do: {}",
            names.join(", ")
        ))
    })?;
    if !(family.least..=family.most).contains(&shapes.len()) {
        return Err(Error::Input(format!(
            "--shape: {} shapes for {}, which takes {}",
            shapes.len(),
            family.name,
            family.takes
        )));
    }
    if let Some(key) = settings.keys().find(|key| family.settings.iter().all(|s| s.0 != key.as_str())) {
        let known: Vec<String> = family.settings.iter().map(|(k, v)| format!("{k}={v}")).collect();
        let known = if known.is_empty() { "none".into() } else { known.join(", ") };
        return Err(Error::Input(format!(
            "--set {key}: {} has no such setting; it has {known}",
            family.name
        )));
    }
    let mut makings =
        Makings { shapes, settings, dtype, tracked: forward.is_some(), device, rng: Rng::new(1), family };
    let (result, kept) = capture(|| -> Result<()> {
        let y = (family.run)(&mut makings)?;
        if let (true, Some(y)) = (forward.is_some(), y) {
            y.backward_from(&y.detach())?;
        }
        Ok(())
    });
    result?;
    // What makes the inputs is captured too; the operation itself comes last.
    let wanted = if name == "linear" { "matmul" } else { name };
    let mut kept: Vec<_> = kept.into_iter().filter(|a| a.name() == wanted).collect();
    let application = kept.pop().ok_or_else(|| {
        Error::Input(format!(
            "{} on these shapes applies no {wanted}; the gradients of it are products",
            family.name
        ))
    })?;
    Ok(vec![Case { application, phases: Vec::new() }])
}

#[cfg(test)]
mod tests {
    use super::*;

    fn given(name: &str, shape: &str, set: &[(&str, &str)]) -> Result<Vec<Case>> {
        let settings = set.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect();
        cases(name, &shapes(shape)?, &settings, DType::BF16, &Device::cpu())
    }

    #[test]
    fn shapes_are_read() {
        let found = shapes("2x3, 4:f32").unwrap();
        assert_eq!(found[0], Shape { dims: vec![2, 3], dtype: None });
        assert_eq!(found[1], Shape { dims: vec![4], dtype: Some(DType::F32) });
        for text in ["", "x", "2x", "0x3", "-1", "2x3:f99", "99999999x99999999", "2;3", "2x3,"] {
            let error = shapes(text).unwrap_err().to_string();
            assert!(error.contains("--shape"), "{text}: {error}");
        }
    }

    #[test]
    fn every_family_applies_the_operation_that_it_is_named_for() {
        for family in &FAMILIES {
            let shape = match family.name {
                "matmul" => "4x6,6x5",
                "linear" | "linear_nf4" => "4x64,5x64,5",
                "linear_nf4_group" => "4x64,5x64,3x64",
                "attention" => "1x5x4x8,1x7x2x8",
                "rope" | "rope_write" => "1x5x4x8",
                "embedding" => "9x4,3",
                "scatter_rows" => "9x4,3x4",
                "concat" => "2x3,4x3",
                "burst" => "256:f32",
                _ => "60x70",
            };
            let found = given(family.name, shape, &[]).unwrap_or_else(|e| panic!("{}: {e}", family.name));
            let wanted = if family.name == "linear" { "matmul" } else { family.name };
            assert_eq!(found[0].application.name(), wanted);
        }
        for name in ["attention_grad", "rms_norm_grad", "gelu_grad", "linear_nf4_grad"] {
            let shape = match name {
                "attention_grad" => "1x5x4x8",
                "linear_nf4_grad" => "4x64,5x64",
                _ => "6x7",
            };
            assert_eq!(given(name, shape, &[]).unwrap()[0].application.name(), name);
        }
    }

    #[test]
    fn what_is_wrong_is_named() {
        for (name, shape, set, says) in [
            ("attention", "2x3,4x5,6,7", &[][..], "q [B, Sq, Hq, D]"),
            ("matmul", "2x3", &[], "takes A"),
            ("matmul", "2x3,4x5", &[], "inner sizes differ"),
            ("attention", "1x5x4x8", &[("causall", "true")], "causal=true"),
            ("attention", "1x5x4x8", &[("causal", "maybe")], "true or false"),
            ("gelu", "8", &[("kind", "x")], "tanh, erf"),
            ("view", "8", &[], "takes no shapes"),
            ("affine_grad", "8", &[], "affine_grad"),
        ] {
            let error = given(name, shape, set).map(|_| ()).unwrap_err().to_string();
            assert!(error.contains(says), "{name} {shape}: {error}");
        }
    }
}
