//! `bench model`: a whole model against the machine.

use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::Result;
use bench::machine::{Ceilings, Machine, default_path};
use bench::model::{Figure, How, Inference, Kind, Meter, Parts, Subject, Training};
use bench::record::{Row, Run, write_text};
use engine::DType;
use eval::html;
use serde_json::json;

use crate::global::Global;
use crate::open::FloatType;
use crate::output::{self, Align};

/// Measure a whole model: vision, prefill, decoding, a training step
///
/// Weights are random where a name or a config.json is given. FLOPs and bytes are what the operations declare;
/// "of peak" is their rate against the machine's arithmetic, "of roofline" against what each operation's own limit
/// (arithmetic or memory) allows.
#[derive(Debug, clap::Args)]
#[allow(clippy::struct_excessive_bools, reason = "switches of a command line")]
pub(crate) struct ModelArgs {
    /// smollm2-135m, smollm2-1.7b, smolvlm-256m, smolvlm, vicuna-7b; a folder, a .gguf file or a config.json
    #[arg(value_name = "MODEL")]
    model: String,
    /// Type of weights and arithmetic
    #[arg(long, value_enum, value_name = "TYPE", default_value_t = FloatType::Bf16)]
    dtype: FloatType,
    /// Linear layers in NF4 with double quantisation, all but the head
    #[arg(long)]
    nf4: bool,
    /// Lengths of prompts; 0 for none
    #[arg(long, value_name = "N", value_delimiter = ',', default_value = "64,512")]
    prefill: Vec<usize>,
    /// Tokens in the cache before decoding
    #[arg(long, value_name = "N", value_delimiter = ',', default_value = "0,512")]
    decode: Vec<usize>,
    /// Tokens of each decode; 0 for none
    #[arg(long, value_name = "N", default_value_t = 32)]
    tokens: usize,
    /// Take a training step of adapters instead: QLoRA with --nf4, else LoRA
    #[arg(long)]
    train: bool,
    /// Recompute each layer in the backward pass
    #[arg(long, requires = "train")]
    checkpointing: bool,
    /// Residual stream in f32 over bf16 products, as the notebook's recipe has it
    #[arg(long, requires = "train")]
    mixed: bool,
    /// Of the adapters
    #[arg(long, value_name = "P", default_value_t = 0.1, requires = "train")]
    dropout: f64,
    /// Train on this image's tiles instead of one tile of noise
    #[arg(long, value_name = "FILE", requires = "train")]
    image: Option<PathBuf>,
    /// Text tokens beside the tile
    #[arg(long, value_name = "N", default_value_t = 100)]
    text_tokens: usize,
    /// Measured runs of each figure, after one that is not
    #[arg(long, value_name = "N", default_value_t = 5, value_parser = clap::value_parser!(u16).range(1..=1000))]
    repeats: u16,
    /// Also say how much longer it takes while a recorder listens, in pairs that take turns
    #[arg(long, conflicts_with = "train")]
    overhead: bool,
    /// Write the table to this page, too
    #[arg(long, value_name = "FILE.html")]
    html: Option<PathBuf>,
    /// Write the run to this file, too, for `bench compare`
    #[arg(long, value_name = "FILE.json")]
    out: Option<PathBuf>,
}

pub(crate) fn run(args: &ModelArgs, global: &Global) -> Result<ExitCode> {
    let device = global.device()?;
    let dtype = DType::from(args.dtype);
    let how = How { dtype, nf4: args.nf4, mixed: args.mixed };
    let mut subject = Subject::open(&args.model, how, &device)?;
    let machine = Machine::known(&device, default_path(&device).as_deref())?;
    let ceilings = machine.ceilings();
    let meter = Meter {
        device: device.clone(),
        repeats: usize::from(args.repeats),
        ceilings: Some(ceilings.clone()),
        overhead: args.overhead,
    };
    let (figures, parts) = if args.train {
        let training = Training {
            checkpointing: args.checkpointing,
            dropout: args.dropout,
            image: args.image.clone(),
            text_tokens: args.text_tokens,
        };
        let (figure, parts) = training.run(&mut subject, &meter)?;
        (vec![figure], Some(parts))
    } else {
        let what = Inference {
            vision: true,
            text_tokens: args.text_tokens,
            prefill: args.prefill.iter().copied().filter(|&n| n > 0).collect(),
            decode: if args.tokens > 0 { args.decode.clone() } else { Vec::new() },
            decode_tokens: args.tokens.max(1),
        };
        let mut tell = |figure: &Figure| tracing::info!("{}: {:.4} s", figure.name, figure.median_seconds());
        (what.run(&subject, &meter, &mut tell)?, None)
    };
    let shown = Shown { subject: &subject, figures: &figures, parts: parts.as_ref(), ceilings: &ceilings };
    if let Some(path) = &args.html {
        write_text(path, &shown.page())?;
    }
    if global.json || args.out.is_some() {
        let rows = figures.iter().map(|figure| shown.row(figure)).collect();
        let run = Run::new(again(args, global), machine.clone(), machine, rows)?;
        if let Some(path) = &args.out {
            super::save(&run, path)?;
        }
        if global.json {
            output::json(&run)?;
            return Ok(ExitCode::SUCCESS);
        }
    }
    output::text(&shown.text())?;
    Ok(ExitCode::SUCCESS)
}

/// Words after `roentgen bench` that ask for the same.
fn again(args: &ModelArgs, global: &Global) -> Vec<String> {
    let list = |values: &[usize]| values.iter().map(usize::to_string).collect::<Vec<_>>().join(",");
    let mut words = vec!["model".to_owned(), args.model.clone()];
    let mut option = |name: &str, value: String| words.extend([format!("--{name}"), value]);
    option("dtype", DType::from(args.dtype).name().into());
    option("repeats", args.repeats.to_string());
    option("text-tokens", args.text_tokens.to_string());
    if args.train {
        option("dropout", args.dropout.to_string());
        if let Some(path) = &args.image {
            option("image", path.display().to_string());
        }
    } else {
        option("prefill", list(&args.prefill));
        option("decode", list(&args.decode));
        option("tokens", args.tokens.to_string());
    }
    if let Some(gpu) = global.gpu() {
        option("device", gpu);
    }
    option("threads", engine::cpu::threads::threads().to_string());
    for (set, name) in [
        (args.nf4, "nf4"),
        (args.train, "train"),
        (args.checkpointing, "checkpointing"),
        (args.mixed, "mixed"),
    ] {
        words.extend(set.then(|| format!("--{name}")));
    }
    words
}

struct Shown<'a> {
    subject: &'a Subject,
    figures: &'a [Figure],
    parts: Option<&'a Parts>,
    ceilings: &'a Ceilings,
}

const HEAD: [(&str, Align); 10] = [
    ("figure", Align::Left),
    ("median", Align::Right),
    ("min–max", Align::Right),
    ("", Align::Left),
    ("first token", Align::Right),
    ("read a token", Align::Right),
    ("GFLOP/s", Align::Right),
    ("of peak", Align::Right),
    ("of roofline", Align::Right),
    ("peak tensors", Align::Right),
];

impl Shown<'_> {
    fn title(&self) -> String {
        let weights = if self.subject.random { "random weights" } else { "its own weights" };
        format!(
            "{}: {}, {weights}, {} parameters, {} loaded, {} threads",
            self.subject.name,
            self.subject.how.weights(),
            output::grouped(self.subject.config.parameter_count().total()),
            output::bytes(self.subject.loaded),
            engine::cpu::threads::threads(),
        )
    }

    fn percent_of_peak(&self, figure: &Figure) -> f64 {
        figure.percent_of_peak(self.ceilings, self.subject.how.dtype)
    }

    fn cells(&self, figure: &Figure) -> Vec<String> {
        let digits = |x: f64| if x >= 100.0 { format!("{x:.0}") } else { format!("{x:.3}") };
        let (middle, range) = figure.summary().map_or(("–".into(), "–".into()), |s| {
            (digits(s.median), format!("{}–{}", digits(s.min), digits(s.max)))
        });
        let first = match figure.kind {
            Kind::Prefill | Kind::FirstToken => format!("{:.1} ms", 1e3 * figure.median_seconds()),
            _ => String::new(),
        };
        let read = match figure.tokens {
            Some(_) => output::bytes(figure.read_per_token() as u64),
            None => String::new(),
        };
        vec![
            figure.name.clone(),
            middle,
            range,
            figure.unit().into(),
            first,
            read,
            format!("{:.0}", figure.flops() / 1e9),
            format!("{:.0} %", self.percent_of_peak(figure)),
            figure.percent_of_roofline().map_or_else(String::new, |p| format!("{p:.0} %")),
            output::bytes(figure.peak_tensors),
        ]
    }

    fn notes(&self) -> Vec<String> {
        let mut notes = Vec::new();
        let resident = self.figures.iter().filter_map(|f| f.peak_resident).max();
        notes.extend(resident.map(|peak| format!("peak resident {}", output::bytes(peak))));
        for (figure, c) in self.figures.iter().filter_map(|f| Some((f, f.recorded?))) {
            let range = c.interval.map_or_else(String::new, |i| format!(" ({:.3}–{:.3})", i.low, i.high));
            notes.push(format!("{}: {:.3} times as long while recorded{range}", figure.name, c.speedup));
        }
        if let Some(parts) = self.parts {
            notes.push(format!(
                "forward {:.3} s, backward {:.3} s, optimiser {:.3} s; {} tiles, {} tokens; {} parameters trained; loss {:.3} -> {:.3}",
                parts.forward_seconds,
                parts.backward_seconds,
                parts.optimizer_seconds,
                parts.tiles,
                parts.tokens,
                output::grouped(parts.trained as u64),
                parts.losses.first().unwrap_or(&f64::NAN),
                parts.losses.last().unwrap_or(&f64::NAN),
            ));
            notes.extend(
                parts.planned_bytes.map(|planned| format!("tensors planned: {}", output::bytes(planned))),
            );
            notes.extend(
                parts
                    .loaded_resident
                    .map(|loaded| format!("resident after loading {}", output::bytes(loaded))),
            );
        }
        notes.push(format!(
            "peak: {:.0} GFLOP/s in {}, {:.1} GB/s from memory (`roentgen bench machine`), on {}",
            self.ceilings.flops(self.subject.how.dtype) / 1e9,
            self.subject.how.dtype.name(),
            self.ceilings.memory() / 1e9,
            self.subject.network.decoder().device().description()
        ));
        notes
    }

    fn text(&self) -> String {
        let rows: Vec<Vec<String>> = self.figures.iter().map(|figure| self.cells(figure)).collect();
        format!("{}\n\n{}\n{}\n", self.title(), output::table(&HEAD, &rows), self.notes().join("\n"))
    }

    fn page(&self) -> String {
        let mut table = String::from("<div class=\"wide\"><table><tr>");
        table.extend(HEAD.map(|(name, _)| format!("<th>{name}</th>")));
        table += "</tr>";
        for figure in self.figures {
            table += "<tr>";
            table.extend(self.cells(figure).iter().zip(HEAD).map(|(cell, (_, align))| {
                let class = if align == Align::Right { " class=\"n\"" } else { "" };
                format!("<td{class}>{}</td>", html::escape(cell))
            }));
            table += "</tr>";
        }
        table += "</table></div>";
        let mut fragments = vec![format!("<p>{}</p>", html::escape(&self.title())), table];
        fragments
            .extend(self.notes().iter().map(|note| format!("<p class=\"note\">{}</p>", html::escape(note))));
        html::page(&format!("roentgen bench model {}", self.subject.name), &fragments)
    }

    fn row(&self, figure: &Figure) -> Row {
        let details = json!({
            "kind": figure.kind,
            "unit": figure.unit(),
            "summary": figure.summary(),
            "tokens": figure.tokens,
            "flops": figure.cost.flops,
            "bytes_read": figure.cost.read,
            "bytes_written": figure.cost.written,
            "bytes_read_per_token": figure.read_per_token(),
            "flops_per_second": figure.flops(),
            "percent_of_peak": self.percent_of_peak(figure),
            "percent_of_roofline": figure.percent_of_roofline(),
            "peak_tensor_bytes": figure.peak_tensors,
            "peak_resident_bytes": figure.peak_resident,
            "loaded_bytes": self.subject.loaded,
            "weights": self.subject.how.weights(),
            "recorded": figure.recorded,
            "parts": self.parts,
        });
        let details = details.as_object().cloned().unwrap_or_default();
        let case = format!("{}, {}, {}", self.subject.name, self.subject.how.weights(), figure.name);
        Row { case, samples: figure.seconds.clone(), details }
    }
}
