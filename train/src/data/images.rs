//! Images as tiles: decoded and cut once, kept on the disk, read again in every epoch.

use std::path::{Path, PathBuf};
use std::time::Duration;

use model::image::{DecodeOptions, Grid, Idefics3Processor, Tiles, decode_file};

use super::parallel;
use super::split::refuse_shared_images;
use super::store::{Key, Store, Stored};
use super::{BadRow, Case, Cases};
use crate::error::{Error, Result};

/// An image whose tiles are in the cache.
#[derive(Clone, Debug)]
pub struct Picture {
    /// The image file.
    pub path: PathBuf,
    /// Hash of its content.
    content: Key,
    /// Hash of content and settings: the tiles.
    pub key: Key,
    /// How it is cut.
    pub grid: Grid,
}

/// Makes tiles of image files.
pub struct Images<'a> {
    processor: &'a Idefics3Processor,
    /// The processor's settings, as part of a key.
    settings: String,
    store: Store,
}

impl<'a> Images<'a> {
    /// Tiles as `processor` cuts them, kept below `cache`; `leftover` as in [`Store::open`].
    ///
    /// # Errors
    /// If the folder cannot be made.
    pub fn new(processor: &'a Idefics3Processor, cache: &Path, leftover: Duration) -> Result<Self> {
        let settings = processor.config().to_json().to_string();
        Ok(Self { processor, settings, store: Store::open(&cache.join("tiles"), "tiles", leftover)? })
    }

    /// Sees to it that the tiles of an image are in the cache. The inner error says what is wrong with the image.
    ///
    /// # Errors
    /// If the cache cannot be written.
    pub fn prepare(&self, path: &Path, content: Key) -> Result<Result<Picture, String>> {
        let key = Key::of(&[&content.0, self.settings.as_bytes()]);
        let picture = |grid| Picture { path: path.to_owned(), content, key, grid };
        let edge = self.processor.config().tile_edge;
        let length = |[rows, cols, channels, stored]: [u32; 4]| {
            let tiles = (rows as usize).checked_mul(cols as usize)?.checked_add(1)?;
            (stored as usize == edge).then_some(())?;
            tiles.checked_mul(channels as usize)?.checked_mul(edge * edge)
        };
        if let Some([rows, cols, ..]) = self.store.dims(&key, length) {
            return Ok(Ok(picture(Grid { rows: rows as usize, cols: cols as usize })));
        }
        let tiles = match decode_file(path, &DecodeOptions::default()) {
            Ok(image) => self.processor.process(&image),
            Err(e) => return Ok(Err(e.to_string())),
        };
        self.keep(&key, &tiles)?;
        Ok(Ok(picture(tiles.grid())))
    }

    fn keep(&self, key: &Key, tiles: &Tiles<'_>) -> Result<()> {
        let grid = tiles.grid();
        let dims = [grid.rows, grid.cols, tiles.channels(), tiles.edge()].map(|d| d as u32);
        self.store.write(key, dims, tiles.bytes())
    }

    /// The tiles of a prepared image; made again if the cache lost them.
    ///
    /// # Errors
    /// If the image is not there any more or is another one.
    pub fn tiles(&self, picture: &Picture) -> Result<Tiles<'a>> {
        let whole = |stored: Stored| {
            let [rows, cols, channels, _] = stored.dims.map(|d| d as usize);
            let grid = Grid { rows, cols };
            (grid == picture.grid).then_some(())?;
            self.processor.tiles_of(grid, channels, stored.bytes)
        };
        if let Some(tiles) = self.store.read(&picture.key).and_then(whole) {
            return Ok(tiles);
        }
        let path = &picture.path;
        tracing::warn!("{}: its tiles in the cache are damaged or gone; made again", path.display());
        let failed =
            |reason: String| Error::Data(format!("{reason}; the image was there when the run began"));
        let content = Key::of_file(path).map_err(|e| failed(format!("{}: {e}", path.display())))?;
        if content != picture.content {
            return Err(Error::Data(format!("{}: changed since the run began", path.display())));
        }
        let image = decode_file(path, &DecodeOptions::default()).map_err(|e| failed(e.to_string()))?;
        let tiles = self.processor.process(&image);
        self.keep(&picture.key, &tiles)?;
        Ok(tiles)
    }
}

/// Hashes of all images of `cases`, in order (`None`: the row has none). Rows whose image cannot be read become bad
/// ones.
///
/// # Errors
/// If one image is in two parts.
pub fn hash(cases: &mut Cases, done: &(dyn Fn() + Sync)) -> Result<Vec<Option<Key>>> {
    let results = parallel::map(cases.cases.len(), |i| {
        let hashed = cases.cases[i].image.as_deref().map(Key::of_file).transpose();
        done();
        hashed
    });
    let reasons = results.iter().zip(&cases.cases).map(|(result, case)| {
        let reason = |e: &std::io::Error| format!("image {} cannot be read: {e}", shown(case));
        result.as_ref().err().map(reason)
    });
    cases.drop_bad(reasons.collect());
    let keys: Vec<Option<Key>> = results.into_iter().flatten().collect();
    refuse_shared_images(keys.iter().zip(&cases.cases).filter_map(|(key, case)| Some(((*key)?, case))))?;
    Ok(keys)
}

/// Decodes every image and keeps nothing: rows whose image is damaged become bad ones.
pub fn decode_all(cases: &mut Cases, done: &(dyn Fn() + Sync)) {
    let reasons = parallel::map(cases.cases.len(), |i| {
        let image = cases.cases[i].image.as_ref();
        let reason = image.and_then(|path| decode_file(path, &DecodeOptions::default()).err());
        done();
        reason.map(|e| e.to_string())
    });
    cases.drop_bad(reasons);
}

fn shown(case: &Case) -> String {
    case.image.as_ref().map(|path| path.display().to_string()).unwrap_or_default()
}

impl Cases {
    /// Moves the rows that have a reason to the bad ones.
    fn drop_bad(&mut self, reasons: Vec<Option<String>>) {
        let mut reasons = reasons.into_iter();
        let mut bad = Vec::new();
        self.cases.retain(|case| match reasons.next().flatten() {
            Some(reason) => {
                bad.push(BadRow { place: case.place.clone(), reason });
                false
            }
            None => true,
        });
        self.add_bad(bad);
    }

    /// Adds bad rows; they stay in the order of file and line.
    pub(crate) fn add_bad(&mut self, bad: Vec<BadRow>) {
        self.bad.extend(bad);
        self.bad.sort_by(|a, b| (&a.place.file, a.place.line).cmp(&(&b.place.file, b.place.line)));
    }
}
