//! A row made ready: its image in the cache, its question and answer as ids.

use engine::Rng;
use model::image::Tiles;
use model::prompt::{Example, PromptEncoder};

use super::augment::Change;
use super::features::Features;
use super::images::{Images, Picture};
use super::store::{Key, Stored};
use super::{BadRow, Case, all_bad, parallel};
use crate::config::{Augmentation, DataSection};
use crate::error::Result;

/// A row, ready but for its pixels, which are read when its turn comes.
pub struct Sample {
    /// Id of the row.
    pub id: String,
    /// What is to be answered.
    pub answer: String,
    picture: Option<Picture>,
    with_case: Example,
    /// `None` where the row has no case to leave out.
    without_case: Option<Example>,
}

impl Sample {
    /// Question and answer, with or without the clinical case.
    pub fn example(&self, with_case: bool) -> &Example {
        match &self.without_case {
            Some(example) if !with_case => example,
            _ => &self.with_case,
        }
    }

    /// Whether it has no image.
    pub fn is_text(&self) -> bool {
        self.picture.is_none()
    }
}

/// What a row's image is given to the model as.
pub enum Sight<'p> {
    /// Tiles, with their key.
    Tiles(Key, Tiles<'p>),
    /// Features of a frozen tower, as the disk has them; with key.
    Features(Key, Stored),
}

/// Reads the pixels of samples.
pub struct Reader<'a> {
    /// Tiles; `None` for a decoder alone.
    pub images: Option<Images<'a>>,
    /// Features, where they are kept.
    pub features: Option<Features>,
}

impl<'a> Reader<'a> {
    /// The image of `sample`, changed by what `rng` draws within `limits`; `None` for a row of text alone.
    ///
    /// # Errors
    /// If the cache lost the tiles and the image is gone or another one.
    pub fn sight(
        &self,
        sample: &Sample,
        change: Option<(&Augmentation, &mut Rng)>,
    ) -> Result<Option<Sight<'a>>> {
        let (Some(images), Some(picture)) = (&self.images, &sample.picture) else { return Ok(None) };
        if let Some(stored) = self.features.as_ref().and_then(|f| f.stored(&picture.key)) {
            return Ok(Some(Sight::Features(picture.key, stored)));
        }
        let mut tiles = images.tiles(picture)?;
        if let Some((limits, rng)) = change.filter(|(limits, _)| !limits.is_none()) {
            let edge = tiles.edge();
            let change = Change::draw(limits, edge, rng);
            tiles = tiles.map_planes(|plane| change.apply(plane, edge));
        }
        Ok(Some(Sight::Tiles(picture.key, tiles)))
    }
}

/// What samples are made with.
pub struct Preparation<'a> {
    /// Messages to ids.
    pub encoder: &'a PromptEncoder<'a>,
    /// Images to tiles; `None` for a decoder alone.
    pub images: Option<&'a Images<'a>>,
    /// Instruction and limits.
    pub data: &'a DataSection,
    /// Most tokens of a row.
    pub positions: usize,
}

impl Preparation<'_> {
    /// Samples of `cases`, each with the hash of its image file, and those that could not be made. `done` is called
    /// after each. Images are prepared on all threads; the order stays.
    ///
    /// # Errors
    /// If none could be made, or the cache cannot be written.
    pub fn all(
        &self,
        cases: &[(&Case, Option<Key>)],
        done: &(dyn Fn() + Sync),
    ) -> Result<(Vec<Sample>, Vec<BadRow>)> {
        let pictures = parallel::map(cases.len(), |i| {
            let (case, content) = &cases[i];
            let picture = match (&case.image, content, self.images) {
                (Some(path), Some(content), Some(images)) => images.prepare(path, *content)?.map(Some),
                (None, ..) => Ok(None),
                _ => Err("has an image, but the model is a decoder alone".to_owned()),
            };
            done();
            Ok::<_, crate::error::Error>(picture)
        });
        let (mut samples, mut bad) = (Vec::new(), Vec::new());
        for ((case, _), picture) in cases.iter().zip(pictures) {
            match picture?.and_then(|picture| self.one(case, picture)) {
                Ok(sample) => samples.push(sample),
                Err(reason) => bad.push(BadRow { place: case.place.clone(), reason }),
            }
        }
        if samples.is_empty() { Err(all_bad(&bad)) } else { Ok((samples, bad)) }
    }

    fn one(&self, case: &Case, picture: Option<Picture>) -> Result<Sample, String> {
        let grids: Vec<_> = picture.iter().map(|picture| picture.grid).collect();
        let encode = |text: Option<&str>| -> Result<Example, String> {
            let messages = [self.data.message(picture.is_some(), text)];
            let example =
                self.encoder.encode_example(&messages, &grids, &case.answer).map_err(|e| e.to_string())?;
            let (n, most) = (example.ids.len(), self.positions);
            if n > most { Err(format!("{n} tokens; the model takes {most}")) } else { Ok(example) }
        };
        let text = Some(case.clinical_case.as_str()).filter(|text| !text.is_empty());
        Ok(Sample {
            id: case.id.clone(),
            answer: case.answer.clone(),
            with_case: encode(text)?,
            without_case: if text.is_some() { Some(encode(None)?) } else { None },
            picture,
        })
    }
}
