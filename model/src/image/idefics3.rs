//! The image processor of Idefics3 and SmolVLM (spec smolvlm §3).

use std::borrow::Cow;
use std::sync::Mutex;

use engine::cpu::threads::parallel_for;

use super::{Grid, Image, resize};
use crate::config::{ConfigError, PreprocessorConfig};

/// Cuts images into tiles.
#[derive(Clone, Debug)]
pub struct Idefics3Processor {
    config: PreprocessorConfig,
    /// What each byte becomes, per channel.
    table: [[f32; 256]; 3],
}

/// Sizes that an image of some size goes through, `(width, height)`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Plan {
    /// After the first resize: the longest edge as configured.
    pub first: (usize, usize),
    /// After the second: multiples of the tile.
    pub second: (usize, usize),
    /// Tiles.
    pub grid: Grid,
}

impl Idefics3Processor {
    /// Takes the settings of a `preprocessor_config.json`; `origin` names it in errors.
    pub fn new(config: PreprocessorConfig, origin: &str) -> Result<Self, ConfigError> {
        config.validate(origin)?;
        let mut table = [[0.0; 256]; 3];
        for ((table, mean), std) in table.iter_mut().zip(config.image_mean).zip(config.image_std) {
            for (byte, value) in (0u8..).zip(table) {
                // The product in f64, the rest in f32, as numpy does it.
                let scaled = (f64::from(byte) * config.rescale_factor) as f32;
                *value = (scaled - mean) / std;
            }
        }
        Ok(Self { config, table })
    }

    /// The settings.
    pub fn config(&self) -> &PreprocessorConfig {
        &self.config
    }

    /// What becomes of an image of `width` × `height` pixels, both at least 1.
    pub fn plan(&self, width: usize, height: usize) -> Plan {
        let (longest, tile) = (self.config.longest_edge, self.config.tile_edge);
        let first = longest_edge(width, height, longest);
        if !self.config.do_image_splitting {
            return Plan { first, second: (tile, tile), grid: Grid::default() };
        }
        let second = whole_tiles(first, tile);
        let (rows, cols) = (second.1 / tile, second.0 / tile);
        // An image that is one tile is its own global image.
        let grid = if rows > 1 || cols > 1 { Grid { rows, cols } } else { Grid::default() };
        Plan { first, second, grid }
    }

    /// Tiles of an image: row by row, the global image last.
    pub fn process(&self, image: &Image) -> Tiles<'_> {
        let _phase = engine::profile::phase("image");
        let plan = self.plan(image.width(), image.height());
        let image = to_size(Cow::Borrowed(image), plan.first);
        let image = to_size(image, plan.second);

        let edge = self.config.tile_edge;
        let channels = image.channels();
        let mut bytes = Vec::with_capacity(plan.grid.tiles() * channels * edge * edge);
        for row in 0..plan.grid.rows {
            for col in 0..plan.grid.cols {
                for plane in image.planes.chunks_exact(image.width * image.height) {
                    for line in plane.chunks_exact(image.width).skip(row * edge).take(edge) {
                        bytes.extend_from_slice(&line[col * edge..][..edge]);
                    }
                }
            }
        }
        bytes.extend_from_slice(&to_size(image, (edge, edge)).planes);
        Tiles { grid: plan.grid, edge, channels, bytes, table: &self.table }
    }
}

impl Idefics3Processor {
    /// Tiles whose bytes are already there, `[tiles, channels, edge, edge]` as [`Tiles::bytes`] gives them;
    /// `None` if there are not as many as `grid` and `channels` (1 or 3) ask for.
    pub fn tiles_of(&self, grid: Grid, channels: usize, bytes: Vec<u8>) -> Option<Tiles<'_>> {
        let edge = self.config.tile_edge;
        let count = grid.rows.checked_mul(grid.cols)?.checked_add(1)?;
        let length = count.checked_mul(channels)?.checked_mul(edge * edge)?;
        let fits = matches!(channels, 1 | 3) && bytes.len() == length;
        fits.then_some(Tiles { grid, edge, channels, bytes, table: &self.table })
    }
}

fn to_size(image: Cow<'_, Image>, (width, height): (usize, usize)) -> Cow<'_, Image> {
    if (image.width, image.height) == (width, height) {
        return image;
    }
    Cow::Owned(resize(&image, width, height))
}

/// The first resize: the longest edge becomes `longest`, the other one even and at least 1.
fn longest_edge(width: usize, height: usize, longest: usize) -> (usize, usize) {
    let aspect = width as f64 / height as f64;
    let other = |length: f64| {
        let length = length as usize;
        (length + length % 2).max(1)
    };
    if width >= height {
        (longest, other(longest as f64 / aspect))
    } else {
        (other(longest as f64 * aspect), longest)
    }
}

/// The second resize: both edges up to multiples of `tile`, the shorter one after the longer.
fn whole_tiles((width, height): (usize, usize), tile: usize) -> (usize, usize) {
    let aspect = width as f64 / height as f64;
    let up = |length: usize| length.div_ceil(tile) * tile;
    if width >= height {
        let width = up(width);
        (width, up((width as f64 / aspect) as usize).max(tile))
    } else {
        let height = up(height);
        (up((height as f64 * aspect) as usize).max(tile), height)
    }
}

/// The tiles of one image.
#[derive(Clone)]
pub struct Tiles<'a> {
    grid: Grid,
    edge: usize,
    channels: usize,
    /// `[tiles, channels, edge, edge]`.
    bytes: Vec<u8>,
    table: &'a [[f32; 256]; 3],
}

impl std::fmt::Debug for Tiles<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Tiles").field("grid", &self.grid).field("edge", &self.edge).finish_non_exhaustive()
    }
}

impl Tiles<'_> {
    /// How the image was cut.
    pub fn grid(&self) -> Grid {
        self.grid
    }

    /// Edge of a tile in pixels.
    pub fn edge(&self) -> usize {
        self.edge
    }

    /// Number of tiles with the global image.
    pub fn count(&self) -> usize {
        self.grid.tiles()
    }

    /// Planes of a tile: 1 where the image is grey, else 3.
    pub fn channels(&self) -> usize {
        self.channels
    }

    /// `[tiles, channels, edge, edge]`.
    pub fn bytes(&self) -> &[u8] {
        &self.bytes
    }

    /// Shape of the normalised pixels: `[tiles, 3, edge, edge]`.
    pub fn shape(&self) -> [usize; 4] {
        [self.count(), 3, self.edge, self.edge]
    }

    /// One tile as an image; the global one is the last.
    ///
    /// # Panics
    /// If `index` is not below [`Self::count`].
    pub fn tile(&self, index: usize) -> Image {
        let length = self.channels * self.edge * self.edge;
        Image::from_planes(self.edge, self.edge, self.bytes[index * length..][..length].to_vec())
    }

    /// The same tiles with every plane `[edge, edge]` replaced by what `change` makes of it (augmentation).
    ///
    /// # Panics
    /// If `change` returns another number of bytes.
    #[must_use]
    pub fn map_planes(&self, change: impl Fn(&[u8]) -> Vec<u8>) -> Self {
        let bytes: Vec<u8> = self.bytes.chunks_exact(self.edge * self.edge).flat_map(change).collect();
        assert_eq!(bytes.len(), self.bytes.len(), "a plane of another size");
        Self { bytes, ..self.clone() }
    }

    /// Writes the pixels as the vision tower takes them, `[tiles, 3, edge, edge]`. No value is 0, which
    /// the reference needs to tell padding from pixels.
    ///
    /// # Panics
    /// If `out` has another length.
    pub fn write_normalised(&self, out: &mut [f32]) {
        assert_eq!(out.len(), self.shape().iter().product::<usize>(), "[tiles, 3, edge, edge]");
        let area = self.edge * self.edge;
        let planes: Vec<_> = out.chunks_exact_mut(area).map(Mutex::new).collect();
        parallel_for(planes.len(), |plane| {
            let (tile, channel) = (plane / 3, plane % 3);
            let source = tile * self.channels + if self.channels == 3 { channel } else { 0 };
            let bytes = &self.bytes[source * area..][..area];
            let table = &self.table[channel];
            // Each plane has one task, so the lock is free and never poisoned.
            let mut out = planes[plane].lock().unwrap();
            for (out, &byte) in out.iter_mut().zip(bytes) {
                *out = table[usize::from(byte)];
            }
        });
    }

    /// The pixels as the vision tower takes them, `[tiles, 3, edge, edge]`.
    pub fn normalised(&self) -> Vec<f32> {
        let mut out = vec![0.0; self.shape().iter().product()];
        self.write_normalised(&mut out);
        out
    }
}
