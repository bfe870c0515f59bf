//! A row made ready: its image cut into tiles once, its question and answer as ids.

use engine::Rng;
use model::config::Config;
use model::image::{DecodeOptions, Idefics3Processor, Tiles, decode_file};
use model::prompt::report::{Limit, message};
use model::prompt::{Example, PromptEncoder};

use super::augment::Change;
use super::{BadRow, Case, all_bad};
use crate::config::Augmentation;
use crate::error::{Error, Result};

/// A row, ready for a batch. Pixels are kept as bytes: a float per pixel would be four times that.
pub struct Sample<'p> {
    /// Id of the row.
    pub id: String,
    tiles: Tiles<'p>,
    with_case: Example,
    /// `None` where the row has no case to leave out.
    without_case: Option<Example>,
}

impl<'p> Sample<'p> {
    /// Question and answer, with or without the clinical case.
    pub fn example(&self, with_case: bool) -> &Example {
        match &self.without_case {
            Some(example) if !with_case => example,
            _ => &self.with_case,
        }
    }

    /// Tiles of its image.
    pub fn tiles(&self) -> &Tiles<'p> {
        &self.tiles
    }

    /// Normalised pixels `[tiles, 3, edge, edge]`, changed by what `rng` draws within `limits`.
    pub fn pixels(&self, limits: &Augmentation, rng: &mut Rng) -> Vec<f32> {
        if limits.is_none() {
            return self.tiles.normalised();
        }
        let edge = self.tiles.edge();
        let change = Change::draw(limits, edge, rng);
        self.tiles.map_planes(|plane| change.apply(plane, edge)).normalised()
    }
}

/// What samples are made with.
pub struct Preparation<'a> {
    /// Messages to ids.
    pub encoder: &'a PromptEncoder<'a>,
    /// Images to tiles.
    pub processor: &'a Idefics3Processor,
    /// Sizes of the model.
    pub config: &'a Config,
    /// Scalar values of the clinical case that are kept.
    pub case_limit: usize,
}

impl<'a> Preparation<'a> {
    /// Samples of `cases`, and those that could not be made. `done` is called after each.
    ///
    /// # Errors
    /// If none could be made.
    pub fn all<'c>(
        &self,
        cases: impl Iterator<Item = &'c Case>,
        mut done: impl FnMut(),
    ) -> Result<(Vec<Sample<'a>>, Vec<BadRow>)> {
        let (mut samples, mut bad) = (Vec::new(), Vec::new());
        for case in cases {
            match self.one(case) {
                Ok(sample) => samples.push(sample),
                Err(error) => bad.push(BadRow { place: case.place.clone(), reason: error.to_string() }),
            }
            done();
        }
        if samples.is_empty() { Err(all_bad(&bad)) } else { Ok((samples, bad)) }
    }

    fn one(&self, case: &Case) -> Result<Sample<'a>> {
        let image =
            decode_file(&case.image, &DecodeOptions::default()).map_err(|e| Error::Data(e.to_string()))?;
        let tiles = self.processor.process(&image);
        let answer = case.report.format();
        let encode = |text: Option<&str>| -> Result<Example> {
            let messages = [message(text, Limit::Case(self.case_limit))];
            let example = self.encoder.encode_example(&messages, &[tiles.grid()], &answer)?;
            let most = self.config.text.max_position_embeddings;
            if example.ids.len() > most {
                let n = example.ids.len();
                return Err(Error::Data(format!("{n} tokens; the model takes {most}")));
            }
            Ok(example)
        };
        let text = Some(case.clinical_case.as_str()).filter(|text| !text.is_empty());
        Ok(Sample {
            id: case.id.clone(),
            with_case: encode(text)?,
            without_case: if text.is_some() { Some(encode(None)?) } else { None },
            tiles,
        })
    }
}
