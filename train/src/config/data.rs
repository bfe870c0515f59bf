//! `[data]`: which rows, what of them, and in which part.

use std::path::PathBuf;

use model::prompt::Message;
use model::prompt::report::{CASE_LIMIT, INSTRUCTION, Limit, question};
use serde::{Deserialize, Serialize};

/// Rows of JSON Lines files.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct DataSection {
    /// Where relative paths of this section start (`cache` apart); itself relative to the configuration's folder.
    #[serde(default)]
    pub root: PathBuf,
    /// The files. An `image_path` in one is relative to its folder; a row without one is text alone.
    pub files: Vec<PathBuf>,
    /// What stands before the case in the question; empty for nothing.
    #[serde(default = "instruction")]
    pub instruction: String,
    /// The field with the clinical case, or whatever the answer is to be made from. A list is joined by `, `.
    #[serde(default = "case_field")]
    pub case_field: String,
    /// The field with the answer. Where the default `expected_output` is absent the answer is written from
    /// `image_labels`, `gender`, `age` and `image_caption`.
    #[serde(default = "answer_field")]
    pub answer_field: String,
    /// Fields that name the patient or article of a row; the first that it has counts. No group may be in two
    /// parts.
    #[serde(default = "group_by")]
    pub group_by: Vec<String>,
    /// The field that says to which part a row belongs: `train`, `val` (or `validation`), `test`.
    #[serde(default = "split_field")]
    pub split_field: String,
    /// Lists of ids instead of the field; a row in no list belongs to no part.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub lists: Option<IdLists>,
    /// Parts drawn by group instead of the field.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub split: Option<SplitShares>,
    /// Scalar values that are kept of what `limit_over` names.
    #[serde(default = "case_limit")]
    pub case_limit: usize,
    /// What `case_limit` cuts; the article leaves it open (spec smolvlm §8).
    #[serde(default)]
    pub limit_over: LimitOver,
    /// Whether images are looked at; without, every row is text alone, whatever its `image_path`.
    #[serde(default = "yes")]
    pub images: bool,
    /// Share of the training samples whose clinical case is left out, drawn anew in every epoch.
    #[serde(default)]
    pub case_dropout: f64,
    /// Folder of prepared images; by default `cache` in the run folder. May be shared and may be removed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cache: Option<PathBuf>,
    /// Threads that prepare images ahead of the step; 0: the step waits for each.
    #[serde(default = "two")]
    pub workers: usize,
    /// Micro-batches that each of them may be ahead.
    #[serde(default = "two")]
    pub prefetch: usize,
}

fn instruction() -> String {
    INSTRUCTION.into()
}

fn case_field() -> String {
    "clinical_case".into()
}

const fn yes() -> bool {
    true
}

/// The paper's name of the answer.
pub(crate) const EXPECTED_OUTPUT: &str = "expected_output";

fn answer_field() -> String {
    EXPECTED_OUTPUT.into()
}

/// `patient_id` as in hospital data, `pmcid` as in data made from articles.
pub(crate) fn group_by() -> Vec<String> {
    vec!["patient_id".into(), "pmcid".into()]
}

fn split_field() -> String {
    "split".into()
}

const fn case_limit() -> usize {
    CASE_LIMIT
}

const fn two() -> usize {
    2
}

impl DataSection {
    /// Rows of `files` below `root` with all defaults.
    pub fn new(root: impl Into<PathBuf>, files: Vec<PathBuf>) -> Self {
        Self {
            root: root.into(),
            files,
            instruction: instruction(),
            case_field: case_field(),
            answer_field: answer_field(),
            group_by: group_by(),
            split_field: split_field(),
            lists: None,
            split: None,
            case_limit: CASE_LIMIT,
            limit_over: LimitOver::default(),
            images: true,
            case_dropout: 0.0,
            cache: None,
            workers: 2,
            prefetch: 2,
        }
    }

    /// What is cut, and to how much.
    pub fn limit(&self) -> Limit {
        match self.limit_over {
            LimitOver::Case => Limit::Case(self.case_limit),
            LimitOver::Question => Limit::Whole(self.case_limit),
            LimitOver::Nothing => Limit::None,
        }
    }

    /// The question: instruction and, where there is one, the case.
    pub fn question(&self, case: Option<&str>) -> String {
        question(&self.instruction, case, self.limit()).trim_start().to_owned()
    }

    /// One user turn: the image, if there is one, then the question.
    pub fn message(&self, image: bool, case: Option<&str>) -> Message {
        Message::user(usize::from(image), self.question(case))
    }
}

/// What a limit cuts.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum LimitOver {
    /// The clinical case.
    #[default]
    Case,
    /// Instruction and case together.
    Question,
    /// Nothing.
    Nothing,
}

/// Files with one id a line.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct IdLists {
    /// Trained on.
    pub train: PathBuf,
    /// Watched during training.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub validation: Option<PathBuf>,
    /// Kept for the end.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub test: Option<PathBuf>,
}

/// Parts drawn by group: the groups in a seeded order, cut at these shares of their number.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct SplitShares {
    /// Trained on.
    pub train: f64,
    /// Watched during training.
    pub validation: f64,
    /// Kept for the end.
    pub test: f64,
    /// Start of the order's random stream; its own, so that another seed of the run keeps the test rows.
    pub seed: u64,
}

impl Default for SplitShares {
    fn default() -> Self {
        Self { train: 0.7, validation: 0.1, test: 0.2, seed: 42 }
    }
}

impl SplitShares {
    /// Whether these are shares of one whole.
    pub fn is_valid(&self) -> bool {
        let shares = [self.train, self.validation, self.test];
        shares.iter().all(|s| (0.0..=1.0).contains(s)) && (shares.iter().sum::<f64>() - 1.0).abs() < 1e-6
    }
}
