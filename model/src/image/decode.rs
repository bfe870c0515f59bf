//! PNG, JPEG and WebP files, by their content.

mod jpeg;
mod png;
mod webp;

use std::io::Read;
use std::path::Path;

use super::{Image, Window};

/// Why there is no image. `origin` is the file's name.
#[derive(Debug, thiserror::Error)]
pub enum ImageError {
    /// The file could not be read.
    #[error("{origin}: cannot be read: {source}")]
    Read {
        /// The file.
        origin: String,
        /// What the system said.
        source: std::io::Error,
    },
    /// The file has no content.
    #[error("{origin}: the file is empty")]
    Empty {
        /// The file.
        origin: String,
    },
    /// No PNG, JPEG or WebP.
    #[error("{origin}: not a PNG, JPEG or WebP image but {found}; convert it to PNG first")]
    Format {
        /// The file.
        origin: String,
        /// What it looks like.
        found: &'static str,
    },
    /// The file ends before its image does.
    #[error("{origin}: the {format} data end too early; the file is cut off")]
    Truncated {
        /// The file.
        origin: String,
        /// `PNG`, `JPEG` or `WebP`.
        format: &'static str,
    },
    /// The file contradicts itself, or uses a part of its format that is not supported.
    #[error("{origin}: the {format} data cannot be decoded: {reason}")]
    Damaged {
        /// The file.
        origin: String,
        /// `PNG`, `JPEG` or `WebP`.
        format: &'static str,
        /// What the decoder said.
        reason: String,
    },
    /// More pixels or bytes than the limits allow.
    #[error("{origin}: {size}, more than the limit of {limit}; scale the image down first")]
    TooLarge {
        /// The file.
        origin: String,
        /// What was found.
        size: String,
        /// What is allowed.
        limit: String,
    },
    /// A window was asked for that cannot be applied.
    #[error("{origin}: {reason}")]
    Window {
        /// The file.
        origin: String,
        /// Why not.
        reason: String,
    },
}

/// What to accept, and how to show 16-bit images.
#[derive(Clone, Debug, PartialEq)]
pub struct DecodeOptions {
    /// `None`: 8-bit images as they are, 16-bit grey images by [`Window::Full`]. A given window is applied
    /// to grey images of either depth, and refused for colour.
    pub window: Option<Window>,
    /// Most pixels. The largest detectors have some 25 million.
    pub max_pixels: u64,
    /// Most bytes of a file.
    pub max_bytes: u64,
}

impl Default for DecodeOptions {
    fn default() -> Self {
        Self { window: None, max_pixels: 100_000_000, max_bytes: 512 << 20 }
    }
}

/// Reads an image file. Grey stays grey, palettes are applied, alpha is dropped, a rotation noted in EXIF is
/// not applied: as Pillow's `convert("RGB")` does, except that 16-bit grey is windowed.
pub fn decode_file(path: impl AsRef<Path>, options: &DecodeOptions) -> Result<Image, ImageError> {
    let _phase = engine::profile::phase("image");
    let path = path.as_ref();
    let origin = path.display().to_string();
    let failed = |source| ImageError::Read { origin: origin.clone(), source };
    let mut file = std::fs::File::open(path).map_err(failed)?;
    let mut bytes = Vec::new();
    // The head is enough to turn away what is no image, however long it is.
    file.by_ref().take(HEAD).read_to_end(&mut bytes).map_err(failed)?;
    sniff(&bytes, &origin)?;
    file.take(options.max_bytes.saturating_add(1)).read_to_end(&mut bytes).map_err(failed)?;
    decode(&bytes, &origin, options)
}

/// Bytes that [`sniff`] looks at.
const HEAD: u64 = 256;

/// Decodes the content of an image file; `origin` names it in errors. See [`decode_file`].
pub fn decode(bytes: &[u8], origin: &str, options: &DecodeOptions) -> Result<Image, ImageError> {
    let file = File { origin, options };
    if bytes.len() as u64 > options.max_bytes {
        let size = format!("more than {} bytes", options.max_bytes);
        return Err(file.too_large(size, format!("{} bytes", options.max_bytes)));
    }
    if let Some(window) = options.window.filter(|window| !window.is_valid()) {
        return Err(file.window(format!("{window:?}: level and width must be finite, the width positive")));
    }
    match sniff(bytes, origin)? {
        Format::Png => png::decode(bytes, &file),
        Format::Jpeg => jpeg::decode(bytes, &file),
        Format::WebP => webp::decode(bytes, &file),
    }
}

/// The formats that are read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Format {
    Png,
    Jpeg,
    WebP,
}

impl Format {
    const fn name(self) -> &'static str {
        match self {
            Self::Png => "PNG",
            Self::Jpeg => "JPEG",
            Self::WebP => "WebP",
        }
    }
}

/// What the decoders share: the file's name for errors, and what was asked for.
struct File<'a> {
    origin: &'a str,
    options: &'a DecodeOptions,
}

impl File<'_> {
    fn truncated(&self, format: &'static str) -> ImageError {
        ImageError::Truncated { origin: self.origin.into(), format }
    }

    fn damaged(&self, format: &'static str, reason: &dyn std::fmt::Display) -> ImageError {
        ImageError::Damaged { origin: self.origin.into(), format, reason: reason.to_string() }
    }

    fn too_large(&self, size: String, limit: String) -> ImageError {
        ImageError::TooLarge { origin: self.origin.into(), size, limit }
    }

    fn window(&self, reason: String) -> ImageError {
        ImageError::Window { origin: self.origin.into(), reason }
    }

    /// To be asked before memory is taken for the pixels.
    fn check_size(&self, width: u64, height: u64) -> Result<(), ImageError> {
        let most = self.options.max_pixels;
        if width.saturating_mul(height) > most {
            return Err(self.too_large(format!("{width}×{height} pixels"), format!("{most} pixels")));
        }
        Ok(())
    }

    /// `None` for an image without pixels.
    fn grey8(&self, width: usize, height: usize, pixels: Vec<u8>) -> Option<Image> {
        let pixels = match self.options.window {
            None => pixels,
            Some(window) => window.apply(&pixels.into_iter().map(u16::from).collect::<Vec<_>>()),
        };
        Image::from_grey(width, height, pixels)
    }

    /// `None` for an image without pixels.
    fn colour(&self, width: usize, height: usize, pixels: &[u8]) -> Result<Option<Image>, ImageError> {
        if self.options.window.is_some() {
            return Err(self.window("a window needs a grey image; this one is in colour".into()));
        }
        Ok(Image::from_rgb(width, height, pixels))
    }
}

/// The format by the first bytes.
fn sniff(head: &[u8], origin: &str) -> Result<Format, ImageError> {
    if head.is_empty() {
        return Err(ImageError::Empty { origin: origin.into() });
    }
    for (magic, format) in [(&b"\x89PNG\r\n\x1a\n"[..], Format::Png), (&[0xff, 0xd8, 0xff], Format::Jpeg)] {
        if head.starts_with(magic) {
            return Ok(format);
        }
        if magic.starts_with(head) {
            return Err(ImageError::Truncated { origin: origin.into(), format: format.name() });
        }
    }
    let is_at = |at: usize, magic: &[u8]| head.get(at..).is_some_and(|rest| rest.starts_with(magic));
    if is_at(0, b"RIFF") && is_at(8, b"WEBP") {
        return Ok(Format::WebP);
    }
    let found = if is_at(128, b"DICM") {
        "a DICOM file"
    } else if is_at(0, b"GIF8") {
        "a GIF image"
    } else if is_at(0, b"II*\0") || is_at(0, b"MM\0*") {
        "a TIFF image"
    } else if is_at(0, b"BM") {
        "a BMP image"
    } else if is_at(4, b"jP  ") || is_at(0, &[0xff, 0x4f, 0xff, 0x51]) {
        "a JPEG 2000 image"
    } else if is_at(0, b"%PDF") {
        "a PDF document"
    } else if looks_like_text(head) {
        "text"
    } else {
        "unknown binary data"
    };
    Err(ImageError::Format { origin: origin.into(), found })
}

fn looks_like_text(head: &[u8]) -> bool {
    let head = &head[..head.len().min(HEAD as usize)];
    // A character may be cut at the end of the head.
    let whole = match std::str::from_utf8(head) {
        Ok(text) => Some(text),
        Err(e) if e.error_len().is_none() => std::str::from_utf8(&head[..e.valid_up_to()]).ok(),
        Err(_) => None,
    };
    whole.is_some_and(|text| text.chars().all(|c| !c.is_control() || "\t\n\r".contains(c)))
}
