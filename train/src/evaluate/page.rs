//! The HTML page of an evaluation: tables, then rows with their image and all texts. One file, nothing from elsewhere.

use std::fmt::Write as _;
use std::path::Path;

use eval::html::{self, escape};
use eval::table::ResultTable;
use image::codecs::jpeg::JpegEncoder;
use image::{ExtendedColorType, ImageEncoder as _};
use model::image::{DecodeOptions, decode_file, resize};

use super::{Row, Tables};

/// A row to show.
pub(super) struct Example<'a> {
    pub(super) row: &'a Row,
    /// A system's name and its answer.
    pub(super) answers: Vec<(&'static str, String)>,
}

/// Longest edge of a picture on the page.
const THUMBNAIL: usize = 256;
const QUALITY: u8 = 80;

/// The page; `rows` counts all that were scored.
pub(super) fn page(tables: &Tables, examples: &[Example<'_>], rows: usize) -> String {
    let mut fragments: Vec<String> = tables.all().map(ResultTable::to_html_fragment).collect();
    fragments.push(format!("<h2>{} of {rows} rows</h2>", examples.len()));
    fragments.extend(examples.iter().map(example));
    html::page("Evaluation", &fragments)
}

fn example(example: &Example<'_>) -> String {
    let row = example.row;
    let mut out = format!("<section class=\"case\"><h3>{}</h3>\n<div class=\"side\">", escape(&row.id));
    if let Some(path) = &row.image {
        match thumbnail(path) {
            Ok(uri) => {
                let _ = write!(out, "<img alt=\"image of {}\" src=\"{uri}\">", escape(&row.id));
            }
            Err(error) => {
                let _ = write!(out, "<p class=\"note\">{}</p>", escape(&error));
            }
        }
    }
    out.push_str("<dl>");
    let mut text = |name: &str, text: &str| {
        let _ = write!(out, "<dt>{}</dt><dd>{}</dd>", escape(name), escape(text));
    };
    if !row.clinical_case.is_empty() {
        text("clinical case", &row.clinical_case);
    }
    text("expected", &row.expected);
    for (name, answer) in &example.answers {
        text(name, if answer.is_empty() { "(nothing)" } else { answer });
    }
    out.push_str("</dl></div></section>");
    out
}

/// A small JPEG as a data URI.
fn thumbnail(path: &Path) -> Result<String, String> {
    let image = decode_file(path, &DecodeOptions::default()).map_err(|e| e.to_string())?;
    let (width, height) = (image.width(), image.height());
    let longest = width.max(height);
    let small = if longest > THUMBNAIL {
        let edge = |n: usize| (n * THUMBNAIL / longest).max(1);
        resize(&image, edge(width), edge(height))
    } else {
        image
    };
    let mut jpeg = Vec::new();
    let (width, height) = (small.width() as u32, small.height() as u32);
    JpegEncoder::new_with_quality(&mut jpeg, QUALITY)
        .write_image(&small.to_rgb(), width, height, ExtendedColorType::Rgb8)
        .map_err(|e| e.to_string())?;
    Ok(format!("data:image/jpeg;base64,{}", base64(&jpeg)))
}

/// RFC 4648, with padding.
fn base64(bytes: &[u8]) -> String {
    const DIGITS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let mut out = String::with_capacity(bytes.len().div_ceil(3) * 4);
    for chunk in bytes.chunks(3) {
        let byte = |i: usize| u32::from(chunk.get(i).copied().unwrap_or(0));
        let bits = byte(0) << 16 | byte(1) << 8 | byte(2);
        for i in 0..4 {
            let digit = DIGITS[(bits >> (18 - 6 * i)) as usize & 63];
            out.push(if i <= chunk.len() { char::from(digit) } else { '=' });
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn base64_is_that_of_the_rfc() {
        for (text, coded) in
            [("", ""), ("f", "Zg=="), ("fo", "Zm8="), ("foo", "Zm9v"), ("foobar", "Zm9vYmFy")]
        {
            assert_eq!(base64(text.as_bytes()), coded);
        }
        assert_eq!(base64(&[0xfb, 0xff]), "+/8=");
    }

    #[test]
    fn a_thumbnail_is_small_and_a_broken_image_is_said() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a.png");
        image::GrayImage::from_pixel(900, 300, image::Luma([90])).save(&path).unwrap();
        let uri = thumbnail(&path).unwrap();
        assert!(uri.starts_with("data:image/jpeg;base64,/9j/") && uri.len() < 20_000);
        std::fs::write(&path, "no image").unwrap();
        assert!(thumbnail(&path).is_err());
    }
}
