//! `data`: rows of a run, converted and checked.

use std::fmt::Write as _;
use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::{Result, bail};
use indicatif::ProgressBar;
use serde_json::{Map, Value, json};
use train::TrainConfig;
use train::config::SplitShares;
use train::data::multicare::{Conversion, Filter, convert};
use train::data::{Check, check};

use crate::global::Global;
use crate::output::{self, Align};

/// Convert and check training data
#[derive(Debug, clap::Args)]
pub(crate) struct DataArgs {
    #[command(subcommand)]
    command: DataCommand,
}

#[derive(Debug, clap::Subcommand)]
enum DataCommand {
    Multicare(MulticareArgs),
    Check(CheckArgs),
}

/// Write the chest X-rays of a MultiCaRe folder as rows for `train`
///
/// The folder holds `cases.csv`, `captions_and_labels.csv` and the images, as version 1 or 2 of the data set has them.
/// Training, validation and test rows are drawn by article, so that none is in two parts.
#[derive(Debug, clap::Args)]
struct MulticareArgs {
    /// The unpacked data set
    folder: PathBuf,
    /// The JSON Lines file to write; image paths in it are relative to its folder where they can be
    #[arg(long, value_name = "FILE.jsonl")]
    out: PathBuf,
    /// A row needs one of these labels, divided by commas; given several times, one of each
    /// [default: x_ray,xray,x-ray,radiography and thorax,chest,lung]
    #[arg(long, value_name = "A,B")]
    labels: Vec<String>,
    /// A row with one of these labels is left out
    /// [default: ct,mri,ultrasound,pet,scintigraphy,tomography]
    #[arg(long, value_name = "A,B")]
    without: Option<String>,
    /// The caption needs one of these words or phrases
    #[arg(long, value_name = "A,B")]
    keywords: Option<String>,
    /// Keep rows whose image file is not there
    #[arg(long)]
    missing_images: bool,
    /// Shares of the articles for training, validation and test
    #[arg(long, value_name = "A,B,C", default_value = "0.7,0.1,0.2")]
    split: String,
    /// Start of the order in which articles are drawn
    #[arg(long, value_name = "N", default_value_t = 42)]
    seed: u64,
}

/// Read the data of a configuration, decode every image, list bad rows and check the parts for leaks
#[derive(Debug, clap::Args)]
struct CheckArgs {
    /// The run's configuration
    #[arg(value_name = "CONFIG.toml")]
    config: PathBuf,
    /// Another value for a key of the configuration, as data.root=FOLDER. May be given several times
    #[arg(long, value_name = "KEY=VALUE", value_parser = crate::train::key_value)]
    set: Vec<(String, String)>,
}

pub(crate) fn run(args: &DataArgs, global: &Global) -> Result<ExitCode> {
    // Sets the number of threads.
    global.processor()?;
    match &args.command {
        DataCommand::Multicare(args) => multicare(args, global),
        DataCommand::Check(args) => look(args, global),
    }
}

fn words(list: &str) -> Vec<String> {
    list.split(',').map(str::trim).filter(|word| !word.is_empty()).map(str::to_owned).collect()
}

fn multicare(args: &MulticareArgs, global: &Global) -> Result<ExitCode> {
    let mut filter = Filter { images_must_exist: !args.missing_images, ..Filter::default() };
    if !args.labels.is_empty() {
        filter.all_of = args.labels.iter().map(|list| words(list)).collect();
    }
    if let Some(list) = &args.without {
        filter.none_of = words(list);
    }
    filter.keywords = args.keywords.as_deref().map(words).unwrap_or_default();
    let shares: Vec<f64> = args.split.split(',').filter_map(|share| share.trim().parse().ok()).collect();
    let shares = match shares[..] {
        [train, validation, test] => SplitShares { train, validation, test, seed: args.seed },
        _ => bail!("--split {}: expected three numbers, as 0.7,0.1,0.2", args.split),
    };
    if !shares.is_valid() {
        bail!("--split {}: expected shares that sum to 1", args.split);
    }
    let conversion = convert(&args.folder, &args.out, &filter, &shares)?;
    if global.json {
        output::json(&conversion_json(&conversion, args))?;
    } else {
        output::text(&conversion_text(&conversion, args))?;
    }
    Ok(ExitCode::SUCCESS)
}

fn conversion_json(conversion: &Conversion, args: &MulticareArgs) -> Value {
    let parts: Map<String, Value> =
        conversion.kept.iter().map(|(split, n)| (split.name().to_owned(), json!(n))).collect();
    json!({
        "out": args.out,
        "images": conversion.images,
        "kept": conversion.kept(),
        "parts": parts,
        "articles": conversion.articles,
        "without_age": conversion.without_age,
        "without_gender": conversion.without_gender,
        "dropped": conversion.dropped,
    })
}

fn conversion_text(conversion: &Conversion, args: &MulticareArgs) -> String {
    let row = |name: String, n: usize| vec![name, output::grouped(n as u64)];
    let mut rows = vec![row("images in the table".into(), conversion.images)];
    rows.extend(conversion.dropped.iter().map(|(reason, n)| row(format!("dropped: {reason}"), *n)));
    rows.push(row(format!("kept, in {}", args.out.display()), conversion.kept()));
    rows.extend(conversion.kept.iter().map(|(split, n)| row(format!("  {split}"), *n)));
    rows.push(row("  articles".into(), conversion.articles));
    rows.push(row("  without age".into(), conversion.without_age));
    rows.push(row("  without gender".into(), conversion.without_gender));
    output::table(&[("", Align::Left), ("", Align::Right)], &rows)
}

fn look(args: &CheckArgs, global: &Global) -> Result<ExitCode> {
    let config = TrainConfig::from_file(&args.config, &args.set)?;
    let bar = ProgressBar::new(0);
    let result = check(&config.data, |n| bar.set_length(n as u64), &|| bar.inc(1));
    bar.finish_and_clear();
    let check = result?;
    if global.json {
        output::json(&check_json(&check))?;
    } else {
        output::text(&check_text(&check))?;
    }
    Ok(ExitCode::SUCCESS)
}

fn check_json(check: &Check) -> Value {
    let parts: Map<String, Value> = check
        .parts
        .iter()
        .map(|(split, part)| {
            let part = json!({
                "rows": part.rows,
                "images": part.images,
                "reports": part.reports,
                "groups": part.groups,
                "without_group": part.without_group,
            });
            (split.name().to_owned(), part)
        })
        .collect();
    let bad = |row: &train::data::BadRow| json!({ "file": row.place.file, "line": row.place.line, "reason": row.reason });
    json!({
        "parts": parts,
        "bad": check.bad.iter().map(bad).collect::<Vec<_>>(),
        "unlisted": check.unlisted,
        "leaks": false,
    })
}

fn check_text(check: &Check) -> String {
    let head = [
        ("part", Align::Left),
        ("rows", Align::Right),
        ("images", Align::Right),
        ("reports", Align::Right),
        ("groups", Align::Right),
        ("without group", Align::Right),
    ];
    let rows: Vec<Vec<String>> = check
        .parts
        .iter()
        .map(|(split, part)| {
            let numbers = [part.rows, part.images, part.reports, part.groups, part.without_group];
            std::iter::once(split.name().to_owned())
                .chain(numbers.map(|n| output::grouped(n as u64)))
                .collect()
        })
        .collect();
    let mut text = output::table(&head, &rows);
    // Writing to a string cannot fail.
    let _ = writeln!(text, "\nno group and no image is in two parts\n{} rows are in no list", check.unlisted);
    let _ = writeln!(text, "{} rows cannot be used", check.bad.len());
    for row in &check.bad {
        let _ = writeln!(text, "  {row}");
    }
    text
}
