//! From an image file to the tiles that a vision tower takes.
//!
//! Every step works on 8-bit planes and is bit-exact with the reference processor (spec smolvlm §3). A
//! radiograph is grey almost always: then one plane is kept instead of three equal ones, and every step
//! costs a third.

mod decode;
mod idefics3;
mod resample;
mod window;

pub use decode::{DecodeOptions, ImageError, decode, decode_file};
pub use idefics3::{Idefics3Processor, Plan, Tiles};
pub use resample::resize;
pub use window::Window;

/// How an image was cut. 0 × 0: not at all, the global image alone.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct Grid {
    /// Tiles from top to bottom.
    pub rows: usize,
    /// Tiles from left to right.
    pub cols: usize,
}

impl Grid {
    /// Tiles with the global image.
    pub fn tiles(self) -> usize {
        self.rows * self.cols + 1
    }
}

/// An 8-bit image, one plane after the other: grey, or red, green, blue.
#[derive(Clone, PartialEq, Eq)]
pub struct Image {
    width: usize,
    height: usize,
    /// `[channels, height, width]`, 1 or 3 channels, never empty.
    planes: Vec<u8>,
}

impl std::fmt::Debug for Image {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let kind = if self.is_grey() { "grey" } else { "RGB" };
        write!(f, "Image({}×{} {kind})", self.width, self.height)
    }
}

impl Image {
    /// A grey image from `[height, width]` bytes; `None` if it would be empty or the length is another.
    pub fn from_grey(width: usize, height: usize, pixels: Vec<u8>) -> Option<Self> {
        let area = width.checked_mul(height)?;
        (area > 0 && pixels.len() == area).then_some(Self { width, height, planes: pixels })
    }

    /// An image from `[height, width, 3]` bytes; kept as grey if the channels are equal everywhere. `None`
    /// if it would be empty or the length is another.
    pub fn from_rgb(width: usize, height: usize, pixels: &[u8]) -> Option<Self> {
        let area = width.checked_mul(height)?;
        let (pixels, rest) = pixels.as_chunks::<3>();
        if area == 0 || pixels.len() != area || !rest.is_empty() {
            return None;
        }
        let grey = pixels.iter().all(|[r, g, b]| r == g && g == b);
        let channels = if grey { 0..1 } else { 0..3 };
        let planes = channels.flat_map(|c| pixels.iter().map(move |pixel| pixel[c])).collect();
        Some(Self { width, height, planes })
    }

    /// `planes` must be `[1 or 3, height, width]`.
    fn from_planes(width: usize, height: usize, planes: Vec<u8>) -> Self {
        debug_assert!(width > 0 && height > 0);
        debug_assert!(planes.len() == width * height || planes.len() == 3 * width * height);
        Self { width, height, planes }
    }

    /// Pixels in a row.
    pub fn width(&self) -> usize {
        self.width
    }

    /// Rows.
    pub fn height(&self) -> usize {
        self.height
    }

    /// Whether one plane stands for all three channels.
    pub fn is_grey(&self) -> bool {
        self.planes.len() == self.width * self.height
    }

    /// Planes kept: 1 or 3.
    pub fn channels(&self) -> usize {
        if self.is_grey() { 1 } else { 3 }
    }

    /// The pixels as `[height, width, 3]` bytes.
    pub fn to_rgb(&self) -> Vec<u8> {
        let area = self.width * self.height;
        let plane = |c: usize| if self.is_grey() { &self.planes } else { &self.planes[c * area..][..area] };
        let (r, g, b) = (plane(0), plane(1), plane(2));
        (0..area).flat_map(|i| [r[i], g[i], b[i]]).collect()
    }
}
