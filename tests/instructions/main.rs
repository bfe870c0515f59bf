//! Instructions that small fixed cases of the kernels take, counted by valgrind: a measure without noise. A case that
//! takes 5 % more than `baseline.json` says fails.
//!
//! The AVX2 path is counted (valgrind knows no AVX-512), on one thread. A count is that of three runs less that of one,
//! halved, so that neither start-up nor the making of inputs is in it. Counts belong to one compiler: under another the
//! test says `SKIP:`. After a change that is meant, `UPDATE_INSTRUCTIONS=1 cargo test --release -p roentgen-engine --test
//! instructions` writes the file anew. `REQUIRE_VALGRIND=1` turns a missing valgrind into a failure.

use std::collections::BTreeMap;
use std::hint::black_box;
use std::path::Path;
use std::process::Command;

use engine::cpu::threads::set_threads;
use engine::ops::{GeluKind, RopeKind};
use engine::{DType, Device, QuantConfig, Quantized, Result, Rng, Tensor, no_grad};
use serde::{Deserialize, Serialize};

/// A case runs in a process of its own, `NAME:TIMES`, under valgrind.
const CASE: &str = "ROENTGEN_INSTRUCTION_CASE";
const SLACK: f64 = 0.05;

#[derive(Debug, Deserialize, PartialEq, Serialize)]
struct Baseline {
    rustc: String,
    instructions: BTreeMap<String, u64>,
}

struct Source {
    rng: Rng,
    device: Device,
}

impl Source {
    fn tensor(&mut self, dims: &[usize], dtype: DType) -> Tensor {
        Tensor::randn(dims, 1.0, dtype, &mut self.rng, &self.device).unwrap()
    }

    fn ids(&self, count: usize) -> Tensor {
        let ids: Vec<u32> = (0..count as u32).map(|i| i * 7 % 64).collect();
        Tensor::from_slice(&ids, &[count], &self.device).unwrap()
    }
}

type Case = Box<dyn Fn() -> Result<Tensor>>;
type Make = fn(&mut Source) -> Case;

/// The fixed cases: inputs are made here, the closure is what is counted.
fn cases() -> Vec<(&'static str, Make)> {
    use DType::{BF16, F32};
    vec![
        ("matmul f32 64x96x80", |s| {
            let (a, b) = (s.tensor(&[64, 96], F32), s.tensor(&[96, 80], F32));
            Box::new(move || a.matmul(&b))
        }),
        ("linear bf16 48x192x160", |s| {
            let (x, w) = (s.tensor(&[48, 192], BF16), s.tensor(&[160, 192], BF16));
            Box::new(move || x.linear(&w, None))
        }),
        ("linear bf16 1x512x512", |s| {
            let (x, w) = (s.tensor(&[1, 512], BF16), s.tensor(&[512, 512], BF16));
            Box::new(move || x.linear(&w, None))
        }),
        ("linear_nf4 bf16 1x512x512", |s| {
            let (x, w) = (s.tensor(&[1, 512], BF16), s.tensor(&[512, 512], BF16));
            let w = Quantized::quantize(&w, &QuantConfig::default()).unwrap();
            Box::new(move || x.linear_nf4(&w, None, None))
        }),
        ("linear_nf4 bf16 48x192x160", |s| {
            let (x, w) = (s.tensor(&[48, 192], BF16), s.tensor(&[160, 192], BF16));
            let w = Quantized::quantize(&w, &QuantConfig::default()).unwrap();
            Box::new(move || x.linear_nf4(&w, None, None))
        }),
        ("quantize_blockwise 64x256", |s| {
            let w = s.tensor(&[64, 256], BF16);
            Box::new(move || Ok(Quantized::quantize(&w, &QuantConfig::default())?.parts().codes.clone()))
        }),
        ("attention bf16 1x48x4x64 causal", |s| {
            let [q, k, v] = [0; 3].map(|_| s.tensor(&[1, 48, 4, 64], BF16));
            Box::new(move || q.attention(&k, &v, None, 0.125, true))
        }),
        ("attention f32 1x1x4x64 over 128", |s| {
            let q = s.tensor(&[1, 1, 4, 64], F32);
            let [k, v] = [0; 2].map(|_| s.tensor(&[1, 128, 2, 64], F32));
            Box::new(move || q.attention(&k, &v, None, 0.125, true))
        }),
        ("rms_norm bf16 64x576", |s| {
            let (x, w) = (s.tensor(&[64, 576], BF16), s.tensor(&[576], BF16));
            Box::new(move || x.rms_norm(&w, 1e-5))
        }),
        ("layer_norm f32 64x576", |s| {
            let [x, w, b] = [&[64, 576][..], &[576], &[576]].map(|dims| s.tensor(dims, F32));
            Box::new(move || x.layer_norm(&w, &b, 1e-6))
        }),
        ("gelu bf16 64x512", |s| {
            let x = s.tensor(&[64, 512], BF16);
            Box::new(move || x.gelu(GeluKind::Tanh))
        }),
        ("gated_silu bf16 64x512", |s| {
            let [gate, up] = [0; 2].map(|_| s.tensor(&[64, 512], BF16));
            Box::new(move || gate.gated_silu(&up))
        }),
        ("rope bf16 1x48x4x64", |s| {
            let (x, at) = (s.tensor(&[1, 48, 4, 64], BF16), s.ids(48).reshape(&[1, 48]).unwrap());
            Box::new(move || x.rope(&at, 1e4, RopeKind::Half))
        }),
        ("embedding bf16 48 of 64x576", |s| {
            let (table, ids) = (s.tensor(&[64, 576], BF16), s.ids(48));
            Box::new(move || table.embedding(&ids))
        }),
        ("cross_entropy f32 32x1000", |s| {
            let logits = s.tensor(&[32, 1000], F32);
            let labels: Vec<i32> = (0..32).collect();
            let labels = Tensor::from_slice(&labels, &[32], &s.device).unwrap();
            Box::new(move || logits.cross_entropy(&labels, -100))
        }),
        ("cast f32 to bf16 64x512", |s| {
            let x = s.tensor(&[64, 512], F32);
            Box::new(move || x.to_dtype(BF16))
        }),
    ]
}

/// Instructions that are counted of each case, about.
const ENOUGH: u64 = 1_000_000;

/// The child's side: makes the inputs and runs the case so many times.
fn run_case(wanted: &str) {
    let (name, times) = wanted.rsplit_once(':').expect("NAME:TIMES");
    set_threads(1);
    let (_, make) = cases().into_iter().find(|(n, _)| *n == name).expect("a case of the list");
    let case = make(&mut Source { rng: Rng::new(3), device: Device::cpu() });
    no_grad(|| {
        for _ in 0..times.parse().expect("a number") {
            black_box(case().expect("a valid case"));
        }
    });
}

fn instructions(name: &str, times: u32, out: &Path) -> u64 {
    let run = Command::new("valgrind")
        .args(["--tool=callgrind", "--quiet", &format!("--callgrind-out-file={}", out.display())])
        .arg(std::env::current_exe().unwrap())
        .args(["--exact", "kernels_take_no_more_instructions"])
        .envs([(CASE, format!("{name}:{times}").as_str()), ("ROENTGEN_CPU", "avx2")])
        .output()
        .unwrap();
    assert!(run.status.success(), "{name}: {}", String::from_utf8_lossy(&run.stderr));
    let text = std::fs::read_to_string(out).unwrap();
    let totals = text.lines().find_map(|l| l.strip_prefix("totals: ")).expect("callgrind writes its totals");
    totals.trim().parse().unwrap()
}

fn absent(why: &str) {
    assert!(std::env::var("REQUIRE_VALGRIND").as_deref() != Ok("1"), "{why}");
    println!("SKIP: {why}; no instructions are counted");
}

#[test]
fn kernels_take_no_more_instructions() {
    if let Ok(wanted) = std::env::var(CASE) {
        return run_case(&wanted);
    }
    if !cfg!(target_arch = "x86_64") || Command::new("valgrind").arg("--version").output().is_err() {
        return absent("valgrind is not here");
    }
    let rustc = Command::new("rustc").arg("--version").output().expect("rustc built this");
    let rustc = String::from_utf8_lossy(&rustc.stdout).split(' ').nth(1).unwrap_or_default().to_owned();
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/instructions/baseline.json");
    let update = std::env::var("UPDATE_INSTRUCTIONS").is_ok();
    let baseline: Baseline = if update {
        Baseline { rustc: rustc.clone(), instructions: BTreeMap::new() }
    } else {
        serde_json::from_str(&std::fs::read_to_string(&path).unwrap()).unwrap()
    };
    if baseline.rustc != rustc {
        return absent(&format!("the counts are of rustc {}, this is {rustc}", baseline.rustc));
    }
    let folder = tempfile::tempdir().unwrap();
    let count = |name: &str| {
        let run = |times| instructions(name, times, &folder.path().join("callgrind"));
        let one = run(1);
        // Two processes differ by a thousand or two in what is not the kernel's (seeds of hash maps, addresses): short kernels run often.
        let further = (ENOUGH / (run(3).saturating_sub(one) / 2).max(1)).clamp(2, 100);
        run(1 + further as u32).saturating_sub(one) / further
    };
    let counts: BTreeMap<String, u64> =
        cases().iter().map(|(name, _)| ((*name).to_owned(), count(name))).collect();
    let counted = Baseline { rustc, instructions: counts };
    if update {
        return std::fs::write(&path, serde_json::to_string_pretty(&counted).unwrap() + "\n").unwrap();
    }
    let mut worse = Vec::new();
    for (name, &now) in &counted.instructions {
        let Some(&before) = baseline.instructions.get(name) else {
            worse.push(format!("{name}: {now}, and no figure before"));
            continue;
        };
        let change = now as f64 / before as f64 - 1.0;
        println!("{name}: {now} ({:+.2} %)", change * 100.0);
        if change > SLACK {
            worse.push(format!("{name}: {now} instructions, {before} before ({:+.1} %)", change * 100.0));
        }
    }
    assert!(worse.is_empty(), "{}", worse.join("\n"));
}
