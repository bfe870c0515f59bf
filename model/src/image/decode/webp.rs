//! WebP, through the `image` crate. A moving image gives its first frame.

use std::io::{Cursor, ErrorKind};

use ::image::codecs::webp::WebPDecoder;
use ::image::{DynamicImage, ImageDecoder, ImageError as WebPError, Limits};

use super::super::Image;
use super::{File, ImageError};

pub(super) fn decode(bytes: &[u8], file: &File<'_>) -> Result<Image, ImageError> {
    let failed = |error: WebPError| match error {
        WebPError::Limits(error) => {
            file.too_large(error.to_string(), format!("{} pixels", file.options.max_pixels))
        }
        WebPError::IoError(error) if error.kind() == ErrorKind::UnexpectedEof => file.truncated("WebP"),
        error => file.damaged("WebP", &error),
    };
    let mut decoder = WebPDecoder::new(Cursor::new(bytes)).map_err(failed)?;
    let (width, height) = decoder.dimensions();
    file.check_size(width.into(), height.into())?;
    let mut limits = Limits::no_limits();
    limits.max_alloc = Some(file.options.max_pixels.saturating_mul(16).max(1 << 20));
    decoder.set_limits(limits).map_err(failed)?;
    let pixels = DynamicImage::from_decoder(decoder).map_err(failed)?.into_rgb8().into_raw();
    let (width, height) = (width as usize, height as usize);
    // The format has no grey; a radiograph comes as three equal planes.
    let grey: Option<Vec<u8>> =
        pixels.as_chunks::<3>().0.iter().map(|[r, g, b]| (r == g && g == b).then_some(*r)).collect();
    let image = match grey {
        Some(grey) => file.grey8(width, height, grey),
        None => file.colour(width, height, &pixels)?,
    };
    image.ok_or_else(|| file.damaged("WebP", &"no pixels"))
}
