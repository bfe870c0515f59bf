//! What an evaluation needs of a data row.

use std::path::PathBuf;

use model::prompt::Message;
use model::prompt::report::{Limit, question};

use crate::data::Case;

/// A question with the answer that is expected.
#[derive(Clone, Debug, PartialEq)]
pub struct Row {
    /// Unique among the rows.
    pub id: String,
    /// The image file; `None` for a question about text alone.
    pub image: Option<PathBuf>,
    /// What is asked for.
    pub instruction: String,
    /// What was known before; may be empty.
    pub clinical_case: String,
    /// What of the question is cut.
    pub limit: Limit,
    /// The expected answer.
    pub expected: String,
}

impl Row {
    /// The row of a case. The one place that knows how training rows are made.
    pub fn of(case: &Case, instruction: &str, limit: Limit) -> Self {
        Self {
            id: case.id.clone(),
            image: case.image.clone(),
            instruction: instruction.to_owned(),
            clinical_case: case.clinical_case.clone(),
            limit,
            expected: case.answer.clone(),
        }
    }

    /// The user's turn, with or without the clinical case.
    pub fn message(&self, with_case: bool) -> Message {
        let case = Some(self.clinical_case.as_str()).filter(|text| with_case && !text.is_empty());
        let text = question(&self.instruction, case, self.limit);
        // Without an instruction the case stands alone, as in training.
        Message::user(usize::from(self.image.is_some()), text.trim_start())
    }
}
