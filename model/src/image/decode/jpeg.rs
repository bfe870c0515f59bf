//! JPEG, strictly: the decoder's other mode fills what it cannot read with grey, and grey must not pass for a
//! finding. (One case is left that the decoder does not notice: a file that lost a part and still ends with
//! an end marker.)

use zune_jpeg::JpegDecoder;
use zune_jpeg::zune_core::bytestream::ZCursor;
use zune_jpeg::zune_core::colorspace::ColorSpace;
use zune_jpeg::zune_core::options::DecoderOptions;

use super::super::Image;
use super::{File, ImageError};

pub(super) fn decode(bytes: &[u8], file: &File<'_>) -> Result<Image, ImageError> {
    if !is_complete(bytes) {
        return Err(file.truncated("JPEG"));
    }
    // The limit of this crate is on the area.
    let options =
        DecoderOptions::default().set_strict_mode(true).set_max_width(usize::MAX).set_max_height(usize::MAX);
    let damaged = |error: zune_jpeg::errors::DecodeErrors| file.damaged("JPEG", &format!("{error:?}"));
    let mut decoder = JpegDecoder::new_with_options(ZCursor::new(bytes), options);
    decoder.decode_headers().map_err(damaged)?;
    let (Some((width, height)), Some(space)) = (decoder.dimensions(), decoder.input_colorspace()) else {
        return Err(file.damaged("JPEG", &"the header is incomplete"));
    };
    file.check_size(width as u64, height as u64)?;
    let grey = space == ColorSpace::Luma;
    let space = if grey { ColorSpace::Luma } else { ColorSpace::RGB };
    decoder.set_options(options.jpeg_set_out_colorspace(space));
    let pixels = decoder.decode().map_err(damaged)?;
    let image = if grey { file.grey8(width, height, pixels) } else { file.colour(width, height, &pixels)? };
    image.ok_or_else(|| file.damaged("JPEG", &"no pixels"))
}

/// Whether the end marker is there (ITU-T T.81 B.1.1). Segments are stepped over, so that the end of an
/// embedded thumbnail does not count.
fn is_complete(bytes: &[u8]) -> bool {
    let mut at = 2;
    loop {
        // The next marker: 0xff, perhaps repeated, and a byte that is neither 0 (a stuffed 0xff of the
        // entropy-coded data) nor a restart marker.
        let Some(skip) = bytes.get(at..).and_then(|rest| rest.iter().position(|&b| b == 0xff)) else {
            return false;
        };
        at += skip;
        while bytes.get(at) == Some(&0xff) {
            at += 1;
        }
        match bytes.get(at) {
            None => return false,
            Some(0xd9) => return true,
            Some(0x00 | 0x01 | 0xd0..=0xd8) => at += 1,
            Some(_) => {
                let Some(&[high, low]) = bytes.get(at + 1..at + 3) else { return false };
                at += 1 + usize::from(u16::from_be_bytes([high, low])).max(2);
            }
        }
    }
}
