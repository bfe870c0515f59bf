//! Which systems there are, what each needs to run here, and how it is asked for each suite.

use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use serde::{Deserialize, Serialize};

use super::process::Job;
use super::weights::Weights;

/// Work that is measured together: one process a system, with several figures.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Suite {
    /// A text model in bf16.
    TextBf16,
    /// The same in each system's 4-bit format.
    #[serde(rename = "text-4bit")]
    Text4bit,
    /// SmolVLM-256M in bf16 with random weights, one tile and 100 text tokens.
    Vision,
    /// A `QLoRA` step of SmolVLM-256M with random weights.
    Qlora,
    /// The same with gradient checkpointing.
    QloraCheckpointing,
    /// An f32 matrix product, 1024 in every direction.
    Product,
}

/// Backends of the engine, as `--device` names them, without what picks one of several GPUs.
const CPU: &str = "cpu";
const WGPU: &str = "wgpu";
const CUDA: &str = "cuda";

impl Suite {
    /// All, in the order of the table.
    pub const ALL: [Self; 6] =
        [Self::TextBf16, Self::Text4bit, Self::Vision, Self::Qlora, Self::QloraCheckpointing, Self::Product];

    /// As on the command line.
    pub const fn name(self) -> &'static str {
        match self {
            Self::TextBf16 => "text-bf16",
            Self::Text4bit => "text-4bit",
            Self::Vision => "vision",
            Self::Qlora => "qlora",
            Self::QloraCheckpointing => "qlora-checkpointing",
            Self::Product => "product",
        }
    }

    /// For people; `model` is the name of the weights given.
    pub fn title(self, model: &str) -> String {
        match self {
            Self::TextBf16 => format!("{model}, bf16"),
            Self::Text4bit => format!("{model}, 4 bits"),
            Self::Vision => "SmolVLM-256M, bf16".into(),
            Self::Qlora => "SmolVLM-256M QLoRA".into(),
            Self::QloraCheckpointing => "SmolVLM-256M QLoRA, checkpointing".into(),
            Self::Product => "f32 product".into(),
        }
    }

    /// Whether it is about weights that the user gives.
    pub const fn needs_weights(self) -> bool {
        matches!(self, Self::TextBf16 | Self::Text4bit)
    }
}

/// How long the text suites are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Lengths {
    /// Rows of the prefill.
    pub prefill: usize,
    /// Tokens of the decode.
    pub decode: usize,
}

/// What has to be there.
#[derive(Clone, Copy, Debug)]
pub enum Need {
    /// llama.cpp's programs, by `--llama`.
    Llama,
    /// A Python with these packages.
    Python(&'static [&'static str]),
    /// A program built in this folder of `benches/rivals`, which is its name's first word.
    Program(&'static str),
}

/// Another system.
#[derive(Debug)]
pub struct Rival {
    /// As on the command line and in the table.
    pub name: &'static str,
    /// What it needs.
    pub need: Need,
    /// What it can be measured in.
    pub suites: &'static [Suite],
    /// Beside which of our backends: where it runs on the same device.
    pub beside: &'static [&'static str],
    /// How one gets it.
    pub install: &'static str,
}

/// All that we know how to run.
pub const RIVALS: &[Rival] = &[
    Rival {
        name: "llama.cpp",
        need: Need::Llama,
        suites: &[Suite::TextBf16, Suite::Text4bit],
        beside: &[CPU, WGPU],
        install: "git clone https://github.com/ggml-org/llama.cpp && bash benches/rivals/llama_build.sh llama.cpp BUILD (VULKAN=ON before it for --device wgpu); then --llama BUILD/bin",
    },
    Rival {
        name: "PyTorch",
        need: Need::Python(&["torch", "transformers"]),
        suites: &[Suite::TextBf16, Suite::Vision, Suite::Product],
        beside: &[CPU],
        install: "python -m venv VENV && VENV/bin/pip install torch transformers; then --python VENV/bin/python",
    },
    Rival {
        name: "bitsandbytes",
        need: Need::Python(&["torch", "transformers", "bitsandbytes", "accelerate"]),
        suites: &[Suite::Text4bit],
        beside: &[CPU],
        install: "VENV/bin/pip install torch transformers bitsandbytes accelerate; then --python VENV/bin/python",
    },
    Rival {
        name: "PEFT",
        need: Need::Python(&["torch", "transformers", "bitsandbytes", "accelerate", "peft"]),
        suites: &[Suite::Qlora, Suite::QloraCheckpointing],
        beside: &[CPU, CUDA],
        install: "VENV/bin/pip install torch transformers bitsandbytes accelerate peft; then --python VENV/bin/python",
    },
    Rival {
        name: "candle",
        need: Need::Program("candle"),
        suites: &[Suite::TextBf16, Suite::Text4bit],
        beside: &[CPU],
        install: "cd benches/rivals/candle && cargo build --release",
    },
    Rival {
        name: "gemm",
        need: Need::Program("gemm"),
        suites: &[Suite::Product],
        beside: &[CPU],
        install: "cd benches/rivals/gemm && cargo build --release",
    },
    Rival {
        name: "burn",
        need: Need::Program("burn"),
        suites: &[Suite::Product],
        beside: &[WGPU],
        install: "cd benches/rivals/burn && cargo build --release (it needs a Vulkan or Metal driver to run)",
    },
];

/// Where everything is, and how to measure.
pub struct Setup {
    /// Our own program.
    pub program: PathBuf,
    /// `benches/rivals`.
    pub scripts: PathBuf,
    /// Folder of llama.cpp's programs.
    pub llama: Option<PathBuf>,
    /// The Python that runs the scripts.
    pub python: PathBuf,
    /// Weights of the text suites.
    pub weights: Option<Weights>,
    /// For every system.
    pub threads: usize,
    /// Measured runs in a process, after one that is not.
    pub repeats: usize,
    /// Where ours computes, as `--device` has it.
    pub device: String,
    /// The same GPU by its number in llama.cpp's Vulkan backend.
    pub vulkan: u16,
    /// Of the text suites.
    pub lengths: Lengths,
}

/// The rivals' programs in the source that this crate was built from.
pub fn scripts() -> PathBuf {
    PathBuf::from(concat!(env!("CARGO_MANIFEST_DIR"), "/rivals"))
}

/// What [`super::run`] asks; tests answer otherwise than [`Setup`].
pub trait Jobs {
    /// Why a rival cannot run here; `None` if it can.
    fn missing(&self, rival: &Rival) -> Option<String>;
    /// What to run for a suite: ours where there is no rival.
    ///
    /// # Errors
    /// Why it cannot be asked.
    fn job(&self, rival: Option<&Rival>, suite: Suite) -> Result<Job, String>;
}

impl Setup {
    fn built(&self, program: &str) -> PathBuf {
        let file = format!("{program}-rival{}", std::env::consts::EXE_SUFFIX);
        self.scripts.join(program).join("target/release").join(file)
    }

    /// Our backend.
    fn backend(&self) -> &str {
        self.device.split_once(':').map_or(&*self.device, |(backend, _)| backend)
    }

    fn weights(&self) -> Result<&Weights, String> {
        self.weights.as_ref().ok_or_else(|| "no weights were given (--weights)".into())
    }

    fn ours(&self, suite: Suite) -> Result<Vec<OsString>, String> {
        let mut words: Vec<OsString> = vec![self.program.clone().into()];
        words.extend(["bench", "rivals", "--own", suite.name(), "--repeats"].map(OsString::from));
        words.extend(
            [self.repeats.to_string(), "--threads".into(), self.threads.to_string()].map(OsString::from),
        );
        words.extend(["--device", &self.device].map(OsString::from));
        if suite.needs_weights() {
            words.extend(["--weights".into(), self.weights()?.folder()?.into()]);
            words.extend(self.lengths());
        }
        Ok(words)
    }

    fn lengths(&self) -> [OsString; 4] {
        let Lengths { prefill, decode } = self.lengths;
        ["--prefill".into(), prefill.to_string().into(), "--decode".into(), decode.to_string().into()]
    }

    fn script(&self, name: &str) -> Vec<OsString> {
        vec![self.python.clone().into(), self.scripts.join(name).into()]
    }

    fn theirs(&self, rival: &Rival, suite: Suite) -> Result<Vec<OsString>, String> {
        let gguf = || self.weights()?.gguf(&self.python, &self.scripts);
        let mut words = match rival.need {
            Need::Llama => {
                let mut words = self.script("llama_bench.py");
                words.push(self.llama.clone().ok_or("--llama is not given")?.into());
                words.push(gguf()?.into());
                if suite == Suite::Text4bit {
                    words.extend(["--format", "IQ4_NL-head16", "--made"].map(OsString::from));
                    words.push(self.weights()?.made()?.into());
                }
                if self.backend() == WGPU {
                    words.extend(["--vulkan".into(), self.vulkan.to_string().into()]);
                }
                words
            }
            Need::Python(_) => match suite {
                Suite::TextBf16 | Suite::Text4bit => {
                    let mut words = self.script("torch_text.py");
                    words.extend(["--weights".into(), self.weights()?.folder()?.into()]);
                    words.extend((suite == Suite::Text4bit).then(|| "--nf4".into()));
                    words
                }
                Suite::Vision => self.script("torch_smolvlm.py"),
                Suite::Qlora => self.script("torch_qlora.py"),
                Suite::QloraCheckpointing => {
                    let mut words = self.script("torch_qlora.py");
                    words.push("--checkpointing".into());
                    words
                }
                Suite::Product => self.script("torch_matmul.py"),
            },
            Need::Program(program) => {
                let mut words = vec![OsString::from(self.built(program))];
                match suite {
                    Suite::TextBf16 => words.push(self.weights()?.folder()?.into()),
                    Suite::Text4bit => {
                        words.push(gguf()?.into());
                        words.extend(["--quantise", "q4_0"].map(OsString::from));
                    }
                    _ => {}
                }
                words
            }
        };
        if suite.needs_weights() {
            words.extend(self.lengths());
        }
        if self.backend() == CUDA {
            words.extend(["--device", CUDA].map(OsString::from));
        }
        words.extend(["--threads".into(), self.threads.to_string().into()]);
        words.extend(["--repeats".into(), self.repeats.to_string().into()]);
        Ok(words)
    }
}

impl Jobs for Setup {
    fn missing(&self, rival: &Rival) -> Option<String> {
        if !rival.beside.contains(&self.backend()) {
            let where_it_is = rival.beside.join(" or ");
            return Some(format!("not measured beside --device {}, but beside {where_it_is}", self.device));
        }
        match rival.need {
            Need::Llama => match &self.llama {
                None => Some("--llama is not given".into()),
                Some(folder) => {
                    let needed = folder.join(format!("llama-bench{}", std::env::consts::EXE_SUFFIX));
                    let absent = (!needed.is_file()).then(|| format!("{}: not there", needed.display()));
                    absent.or_else(|| missing_packages(&self.python, &[]))
                }
            },
            Need::Python(packages) => missing_packages(&self.python, packages),
            Need::Program(program) => {
                let file = self.built(program);
                (!file.is_file()).then(|| format!("{}: not built", file.display()))
            }
        }
    }

    fn job(&self, rival: Option<&Rival>, suite: Suite) -> Result<Job, String> {
        let command = match rival {
            None => self.ours(suite)?,
            Some(rival) => self.theirs(rival, suite)?,
        };
        let who = rival.map_or("roentgen", |rival| rival.name).to_owned();
        Ok(Job { who, command, folder: self.scripts.clone() })
    }
}

/// Which packages a Python lacks, without importing them (PyTorch alone takes seconds).
fn missing_packages(python: &Path, packages: &[&str]) -> Option<String> {
    let find = "import importlib.util as u, sys; print(*[m for m in sys.argv[1:] if u.find_spec(m) is None])";
    let asked = Command::new(python).args(["-c", find]).args(packages).stdin(Stdio::null()).output();
    match asked {
        Err(e) => Some(format!("{}: cannot be started: {e}", python.display())),
        Ok(done) if !done.status.success() => {
            let said =
                String::from_utf8_lossy(&done.stderr).trim().lines().last().unwrap_or_default().to_owned();
            Some(format!("{}: {}: {said}", python.display(), done.status))
        }
        Ok(done) => {
            let lacking = String::from_utf8_lossy(&done.stdout).trim().replace(' ', ", ");
            (!lacking.is_empty()).then(|| format!("{} has no {lacking}", python.display()))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn setup() -> Setup {
        Setup {
            program: "roentgen".into(),
            scripts: "scripts".into(),
            llama: None,
            python: "no-such-python".into(),
            weights: None,
            threads: 3,
            repeats: 5,
            device: "cpu".into(),
            vulkan: 0,
            lengths: Lengths { prefill: 512, decode: 64 },
        }
    }

    #[test]
    fn what_is_not_there_is_absent_with_the_reason() {
        for rival in RIVALS {
            let why = setup().missing(rival).unwrap_or_else(|| panic!("{}", rival.name));
            assert!(why.contains("not") || why.contains("cannot"), "{why}");
            assert!(!rival.install.is_empty() && !rival.suites.is_empty());
        }
        let with = Setup { llama: Some("nowhere".into()), ..setup() };
        assert!(with.missing(&RIVALS[0]).unwrap().contains("llama-bench"));
    }

    #[test]
    fn every_suite_has_a_rival_and_a_name_of_its_own() {
        for suite in Suite::ALL {
            assert!(RIVALS.iter().any(|r| r.suites.contains(&suite)), "{}", suite.name());
            assert_eq!(serde_json::to_value(suite).unwrap(), suite.name());
        }
    }

    #[test]
    fn both_sides_get_the_same_threads_and_repeats() {
        let setup = setup();
        let peft = RIVALS.iter().find(|r| r.name == "PEFT").unwrap();
        let ours = setup.job(None, Suite::Qlora).unwrap().text();
        let theirs = setup.job(Some(peft), Suite::QloraCheckpointing).unwrap().text();
        assert_eq!(ours, "roentgen bench rivals --own qlora --repeats 5 --threads 3 --device cpu");
        assert!(theirs.ends_with("torch_qlora.py --checkpointing --threads 3 --repeats 5"), "{theirs}");
        let on_cuda = Setup { device: "cuda:1".into(), ..self::setup() };
        let theirs = on_cuda.job(Some(peft), Suite::Qlora).unwrap().text();
        assert!(theirs.ends_with("torch_qlora.py --device cuda --threads 3 --repeats 5"), "{theirs}");
        let burn = RIVALS.iter().find(|r| r.name == "burn").unwrap();
        assert!(on_cuda.missing(burn).unwrap().contains("--device cuda:1"));
        let error = setup.job(None, Suite::TextBf16).unwrap_err();
        assert!(error.contains("--weights"), "{error}");
    }
}
