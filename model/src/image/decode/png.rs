//! PNG, through the `image` crate.

use std::io::{Cursor, ErrorKind};

use ::image::codecs::png::PngDecoder;
use ::image::{DynamicImage, ImageDecoder, ImageError as PngError, Limits};

use super::super::Image;
use super::{File, ImageError};

pub(super) fn decode(bytes: &[u8], file: &File<'_>) -> Result<Image, ImageError> {
    let failed = |error: PngError| match error {
        PngError::Limits(error) => {
            file.too_large(error.to_string(), format!("{} pixels", file.options.max_pixels))
        }
        PngError::IoError(error) if error.kind() == ErrorKind::UnexpectedEof => file.truncated("PNG"),
        error => file.damaged("PNG", &error),
    };
    let mut limits = Limits::no_limits();
    // Eight bytes a pixel are the widest type (RGBA of 16 bits); the same again for the decoder's own.
    limits.max_alloc = Some(file.options.max_pixels.saturating_mul(16).max(1 << 20));
    let decoder = PngDecoder::with_limits(Cursor::new(bytes), limits).map_err(failed)?;
    let (width, height) = decoder.dimensions();
    file.check_size(width.into(), height.into())?;
    let decoded = DynamicImage::from_decoder(decoder).map_err(failed)?;

    let (width, height) = (width as usize, height as usize);
    let image = match decoded {
        DynamicImage::ImageLuma16(_) | DynamicImage::ImageLumaA16(_) => {
            let values = decoded.into_luma16().into_raw();
            Image::from_grey(width, height, file.options.window.unwrap_or_default().apply(&values))
        }
        DynamicImage::ImageLuma8(_) | DynamicImage::ImageLumaA8(_) => {
            file.grey8(width, height, decoded.into_luma8().into_raw())
        }
        // Pillow keeps the high byte of 16-bit colour.
        DynamicImage::ImageRgb16(_) | DynamicImage::ImageRgba16(_) => {
            let high: Vec<u8> = decoded.into_rgb16().into_raw().into_iter().map(|v| (v >> 8) as u8).collect();
            file.colour(width, height, &high)?
        }
        other => file.colour(width, height, &other.into_rgb8().into_raw())?,
    };
    image.ok_or_else(|| file.damaged("PNG", &"no pixels"))
}
