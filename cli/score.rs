//! `score`: the metrics alone, of texts that are there already.

use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::{Context, Result};
use engine::weights::{WeightError, replace_file};
use eval::html;
use eval::table::ResultTable;
use serde_json::json;
use train::evaluate::{BadLine, FieldNames, Pairs, Tables};

use crate::global::Global;
use crate::output;
use crate::scoring::ScoringArgs;

/// Score generated texts against expected ones
///
/// One JSON object a line, with an id, the expected text and the generated one. Lines that cannot be scored are
/// listed on stderr and counted under the table.
#[derive(Debug, clap::Args)]
pub(crate) struct ScoreArgs {
    /// The texts
    #[arg(value_name = "HYP.jsonl")]
    file: PathBuf,
    /// Field with the id (optional in a line)
    #[arg(long, value_name = "NAME", default_value = "id")]
    id_field: String,
    /// Field with the expected text
    #[arg(long, value_name = "NAME", default_value = "expected")]
    expected_field: String,
    /// Field with the generated text
    #[arg(long, value_name = "NAME", default_value = "generated")]
    generated_field: String,
    #[command(flatten)]
    scoring: ScoringArgs,
    /// Write the tables to this file, too
    #[arg(long, value_name = "FILE.html")]
    html: Option<PathBuf>,
}

/// Bad lines that are listed one by one; --json has them all.
const LISTED: usize = 20;

pub(crate) fn run(args: &ScoreArgs, global: &Global) -> Result<ExitCode> {
    let device = global.device()?;
    let names = FieldNames {
        id: args.id_field.clone(),
        expected: args.expected_field.clone(),
        generated: args.generated_field.clone(),
    };
    let pairs = Pairs::read(&args.file, &names)?;
    list(&pairs.bad);
    let scoring = args.scoring.open(&device)?;
    let mut tables = Tables::of(&[("score", &pairs.good)], &scoring)?;
    tables.whole.note(&format!("{} pairs of {}", pairs.good.len(), args.file.display()));
    if !pairs.bad.is_empty() {
        tables.whole.note(&format!("{} lines could not be scored and are left out", pairs.bad.len()));
    }
    if let Some(path) = &args.html {
        let fragments: Vec<String> = tables.all().map(ResultTable::to_html_fragment).collect();
        let page = html::page(&format!("Scores of {}", args.file.display()), &fragments);
        replace_file(path, |file| {
            let written = std::io::Write::write_all(file, page.as_bytes());
            written.map_err(|source| WeightError::Io { path: path.clone(), action: "write", source })
        })
        .with_context(|| format!("{}: cannot be written", path.display()))?;
    }
    if global.json {
        output::json(&json!({
            "file": args.file,
            "pairs": pairs.good.len(),
            "bad_lines": pairs.bad,
            "bootstrap": scoring.bootstrap,
            "tables": tables.to_json(),
        }))?;
    } else {
        output::text(&tables.to_text())?;
    }
    Ok(ExitCode::SUCCESS)
}

fn list(bad: &[BadLine]) {
    for line in bad.iter().take(LISTED) {
        tracing::warn!("line {}: {}", line.line, line.reason);
    }
    if bad.len() > LISTED {
        tracing::warn!("and {} more lines that cannot be scored (--json lists all)", bad.len() - LISTED);
    }
}
