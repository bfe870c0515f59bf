//! Options of the commands that score texts.

use std::path::PathBuf;

use anyhow::{Context, Result};
use engine::Device;
use eval::bootstrap::Bootstrap;
use eval::report_scores::AGE_WITHIN;
use eval::text::TextScorer;
use eval::wordnet::WordNet;
use train::evaluate::{BertScoreOptions, Rescale, Scoring, open_bertscore};

/// Which metrics, and how.
#[derive(Debug, clap::Args)]
#[allow(clippy::doc_markdown, reason = "the comments are the help text")]
pub(crate) struct ScoringArgs {
    /// Folder with WordNet 3.0 (Debian: package wordnet-base); without it METEOR matches words and stems alone
    #[arg(long, value_name = "DIR", help_heading = "Metrics")]
    wordnet: Option<PathBuf>,
    /// BERTScore with this BERT or RoBERTa encoder, a folder in Hugging Face layout
    #[arg(long, value_name = "FOLDER", help_heading = "Metrics")]
    bertscore: Option<PathBuf>,
    /// The encoder's layer that counts [default: bert_score's choice for the model of that name]
    #[arg(long, value_name = "N", requires = "bertscore", help_heading = "Metrics")]
    bertscore_layer: Option<usize>,
    /// Weigh word pieces by inverse document frequency over the references
    #[arg(long, requires = "bertscore", help_heading = "Metrics")]
    idf: bool,
    /// Rescale BERTScore with the built-in baseline (roberta-large, layer 17) or one from a file
    #[arg(
        long,
        value_name = "FILE",
        num_args = 0..=1,
        require_equals = true,
        requires = "bertscore",
        help_heading = "Metrics"
    )]
    #[allow(clippy::option_option, reason = "clap's form of an option whose value may be left out")]
    rescale: Option<Option<PathBuf>>,
    /// Resamples of the confidence intervals; 0 leaves them out
    #[arg(
        long,
        value_name = "N",
        default_value_t = Bootstrap::default().resamples,
        value_parser = resamples,
        help_heading = "Metrics"
    )]
    bootstrap: usize,
    /// Start of the random stream that draws them
    #[arg(long, value_name = "SEED", default_value_t = Bootstrap::default().seed, help_heading = "Metrics")]
    bootstrap_seed: u64,
    /// Ages count as near within so many years
    #[arg(
        long,
        value_name = "YEARS",
        value_delimiter = ',',
        default_values_t = AGE_WITHIN,
        value_parser = years,
        help_heading = "Metrics"
    )]
    age_within: Vec<f64>,
}

/// Above this nothing is gained.
const MOST_RESAMPLES: usize = 1_000_000;

fn resamples(text: &str) -> Result<usize, String> {
    let n = text.parse().ok().filter(|n| *n <= MOST_RESAMPLES);
    n.ok_or_else(|| format!("expected a number up to {MOST_RESAMPLES}"))
}

fn years(text: &str) -> Result<f64, String> {
    let years = text.parse().ok().filter(|y: &f64| (0.0..=150.0).contains(y));
    years.ok_or_else(|| "expected years from 0 to 150".into())
}

impl ScoringArgs {
    /// Opens what the metrics need.
    pub(crate) fn open(&self, device: &Device) -> Result<Scoring> {
        let wordnet = self.wordnet.as_deref().map(WordNet::open).transpose().context("--wordnet")?;
        let mut scorer = TextScorer::new(wordnet);
        if let Some(model) = &self.bertscore {
            let options = BertScoreOptions {
                model: model.clone(),
                layer: self.bertscore_layer,
                idf: self.idf,
                rescale: self.rescale.clone().map(|file| file.map_or(Rescale::BuiltIn, Rescale::File)),
            };
            scorer = scorer.with_bertscore(open_bertscore(&options, device).context("--bertscore")?);
        }
        let bootstrap =
            Bootstrap { resamples: self.bootstrap, seed: self.bootstrap_seed, ..Bootstrap::default() };
        Ok(Scoring { scorer, bootstrap, age_within: self.age_within.clone() })
    }
}
