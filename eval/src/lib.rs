//! Scores for generated radiology reports, and the tables and plots that show them.
//!
//! Every metric reproduces one named reference implementation, because several libraries share a metric's name
//! and disagree about its value. Print the implementation beside every score.
//!
//! | module | reproduces |
//! |---|---|
//! | [`rouge`] | rouge-score 0.1.2 (also behind Hugging Face `evaluate`) |
//! | [`bleu`] | `evaluate` bleu, sacrebleu 2.6, nltk `corpus_bleu` |
//! | [`meteor`], [`wordnet`], [`word_tokenize`], [`punkt`] | nltk 3.10 (also behind `evaluate` meteor) |
//! | [`coco`] | pycocoevalcap 1.2: BLEU-n, ROUGE-L, `CIDEr` |
//! | [`bertscore`] | `bert_score`: greedy matching, idf, rescaling, over an encoder the caller brings |
//! | [`clinical`] | clinical efficacy over `CheXbert` label tables, scikit-learn averages |
//! | [`chinese`] | rouge-chinese and character BLEU-4, over segmented words |
//! | [`text`], [`report_scores`] | the metrics of a report paper's table; structured lines field by field |
//! | [`bootstrap`] | confidence intervals of every corpus score, and p-values of differences |
//! | [`table`], [`plot`], [`html`] | result tables as text, Markdown, JSON; SVG line charts; one HTML page of both |
//!
//! Conventions: the hypothesis comes before the reference; scores lie on 0..1 unless the item says otherwise;
//! texts are never altered beyond what the reference implementation does. No metric panics on any text.

pub mod bertscore;
pub mod bleu;
pub mod bootstrap;
pub mod chinese;
pub mod clinical;
pub mod coco;
mod error;
pub mod html;
pub mod meteor;
mod ngram;
pub mod plot;
pub mod punkt;
pub mod report_scores;
pub mod rouge;
pub mod table;
pub mod text;
pub mod word_tokenize;
pub mod wordnet;

pub use error::Error;
pub use ngram::Prf;
