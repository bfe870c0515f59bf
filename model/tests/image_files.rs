//! Image files, good and hostile.

mod common;

use std::io::Cursor;

use common::shared;
use image::codecs::jpeg::JpegEncoder;
use image::{DynamicImage, GrayImage, ImageBuffer, ImageFormat, Luma, LumaA, Rgb, RgbImage, Rgba};
use model::config::PreprocessorConfig;
use model::image::{DecodeOptions, Grid, Idefics3Processor, Image, ImageError, Window, decode, decode_file};
use proptest::prelude::*;

fn open(bytes: &[u8]) -> Result<Image, ImageError> {
    decode(bytes, "film.png", &DecodeOptions::default())
}

fn png(image: impl Into<DynamicImage>) -> Vec<u8> {
    let mut bytes = Cursor::new(Vec::new());
    image.into().write_to(&mut bytes, ImageFormat::Png).unwrap();
    bytes.into_inner()
}

fn jpeg(image: impl Into<DynamicImage>, quality: u8) -> Vec<u8> {
    let mut bytes = Vec::new();
    JpegEncoder::new_with_quality(&mut bytes, quality).encode_image(&image.into()).unwrap();
    bytes
}

/// Grey, with detail everywhere, so that every part of the file carries some of it.
fn film(width: u32, height: u32) -> GrayImage {
    GrayImage::from_fn(width, height, |x, y| Luma([((x * x + 3 * y * y) / 17 % 251) as u8]))
}

fn colours(width: u32, height: u32) -> RgbImage {
    RgbImage::from_fn(width, height, |x, y| Rgb([(x * 7) as u8, (y * 5) as u8, (x + y) as u8]))
}

#[test]
fn the_content_decides_and_png_is_exact() {
    let grey = film(61, 47);
    let image = open(&png(grey.clone())).unwrap();
    assert_eq!(image, Image::from_grey(61, 47, grey.into_raw()).unwrap());
    let rgb = colours(50, 30);
    let image = open(&png(rgb.clone())).unwrap();
    assert!(!image.is_grey());
    assert_eq!(image.to_rgb(), rgb.into_raw());

    // A JPEG under a PNG's name.
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("film.png");
    std::fs::write(&path, jpeg(film(64, 40), 95)).unwrap();
    let image = decode_file(&path, &DecodeOptions::default()).unwrap();
    assert_eq!((image.width(), image.height(), image.is_grey()), (64, 40, true));
}

/// What MultiCaRe has: lossless here, so that the pixels can be compared.
#[test]
fn webp_is_read() {
    let webp = |image: DynamicImage| {
        let mut bytes = Cursor::new(Vec::new());
        image.write_to(&mut bytes, ImageFormat::WebP).unwrap();
        bytes.into_inner()
    };
    let grey = film(61, 47);
    let bytes = webp(DynamicImage::ImageRgb8(DynamicImage::ImageLuma8(grey.clone()).into_rgb8()));
    let image = open(&bytes).unwrap();
    assert!(image.is_grey());
    assert_eq!(image, Image::from_grey(61, 47, grey.into_raw()).unwrap());
    let rgb = colours(50, 30);
    assert_eq!(open(&webp(rgb.clone().into())).unwrap().to_rgb(), rgb.into_raw());
    let tight = DecodeOptions { max_pixels: 1000, ..DecodeOptions::default() };
    assert!(matches!(decode(&bytes, "film.webp", &tight), Err(ImageError::TooLarge { .. })));
    for length in (12..bytes.len()).step_by(7) {
        let error = open(&bytes[..length]).unwrap_err();
        assert!(
            matches!(error, ImageError::Truncated { .. } | ImageError::Damaged { .. }),
            "{length}: {error}"
        );
    }
    for at in 12..bytes.len() {
        let mut damaged = bytes.clone();
        damaged[at] ^= 0x55;
        // An image or an error, and no panic.
        let _ = open(&damaged);
    }
}

#[test]
fn alpha_is_dropped_and_depths_are_reduced() {
    let rgba = ImageBuffer::from_fn(4, 4, |x, y| Rgba([10 * x as u8, 20 * y as u8, 7, (x * 60) as u8]));
    let rgb: Vec<u8> = rgba.pixels().flat_map(|p| [p[0], p[1], p[2]]).collect();
    assert_eq!(open(&png(rgba)).unwrap().to_rgb(), rgb, "not composited over anything");
    let grey_alpha = ImageBuffer::from_fn(4, 1, |x, _| LumaA([50 * x as u8, 0u8]));
    assert_eq!(open(&png(grey_alpha)).unwrap(), Image::from_grey(4, 1, vec![0, 50, 100, 150]).unwrap());
    let deep = ImageBuffer::from_fn(2, 1, |x, _| Rgb([0x12ffu16 * (x as u16 + 1), 0xff00, 0x00ff]));
    assert_eq!(open(&png(deep)).unwrap().to_rgb(), [0x12, 0xff, 0, 0x25, 0xff, 0]);
}

/// A palette PNG of 2 × 1 pixels and a PNG of one bit per pixel, as Pillow writes them.
#[test]
fn palettes_are_applied() {
    let mut bytes = b"\x89PNG\r\n\x1a\n".to_vec();
    chunk(&mut bytes, *b"IHDR", &[0, 0, 0, 2, 0, 0, 0, 1, 8, 3, 0, 0, 0]);
    chunk(&mut bytes, *b"PLTE", &[1, 2, 3, 200, 100, 50]);
    chunk(&mut bytes, *b"IDAT", &stored(&[0, 1, 0]));
    chunk(&mut bytes, *b"IEND", &[]);
    assert_eq!(open(&bytes).unwrap().to_rgb(), [200, 100, 50, 1, 2, 3]);

    let mut bytes = b"\x89PNG\r\n\x1a\n".to_vec();
    chunk(&mut bytes, *b"IHDR", &[0, 0, 0, 3, 0, 0, 0, 1, 1, 0, 0, 0, 0]);
    chunk(&mut bytes, *b"IDAT", &stored(&[0, 0b1010_0000]));
    chunk(&mut bytes, *b"IEND", &[]);
    assert_eq!(open(&bytes).unwrap(), Image::from_grey(3, 1, vec![255, 0, 255]).unwrap());
}

#[test]
fn sixteen_bits_are_windowed() {
    let deep = ImageBuffer::from_fn(5, 1, |x, _| Luma([1000u16 + 100 * x as u16]));
    let bytes = png(deep);
    assert_eq!(open(&bytes).unwrap(), Image::from_grey(5, 1, vec![0, 64, 128, 191, 255]).unwrap());
    let options = |level, width| DecodeOptions {
        window: Some(Window::Level { level, width }),
        ..DecodeOptions::default()
    };
    let narrow = decode(&bytes, "ct.png", &options(1200.0, 200.0)).unwrap();
    assert_eq!(narrow, Image::from_grey(5, 1, vec![0, 0, 128, 255, 255]).unwrap());
    let grey = png(ImageBuffer::from_fn(3, 1, |x, _| Luma([100 + 10 * x as u8])));
    let shown = decode(&grey, "grey.png", &options(110.0, 20.0)).unwrap();
    assert_eq!(shown, Image::from_grey(3, 1, vec![0, 128, 255]).unwrap(), "8 bits, since it was asked for");

    for (bytes, window, expected) in
        [(png(colours(3, 3)), options(1.0, 1.0), "colour"), (bytes, options(1.0, 0.0), "positive")]
    {
        let error = decode(&bytes, "scan.png", &window).unwrap_err().to_string();
        assert!(error.contains(expected) && error.contains("scan.png"), "{error}");
    }
}

#[test]
fn a_file_cut_anywhere_is_an_error() {
    let files = [
        ("JPEG", jpeg(film(200, 160), 80)),
        ("JPEG", jpeg(colours(90, 160), 30)),
        ("PNG", png(film(120, 90))),
        ("PNG", png(colours(64, 64))),
    ];
    for (format, bytes) in files {
        assert!(open(&bytes).is_ok());
        for sixteenth in 0..16 {
            let cut = &bytes[..bytes.len() * sixteenth / 16];
            let error = open(cut).expect_err(&format!("{format} cut to {sixteenth}/16")).to_string();
            assert!(error.contains("film.png"), "{error}");
            let expected = if sixteenth == 0 { "empty" } else { "cut off" };
            assert!(error.contains(expected), "{format} cut to {sixteenth}/16: {error}");
        }
        for length in 1..bytes.len().min(60) {
            assert!(open(&bytes[..length]).is_err(), "{format} cut to {length} bytes");
        }
    }
}

/// Codes that no table has, in the middle: an error, not an image with a grey lower half.
#[test]
fn a_jpeg_with_a_damaged_middle_is_an_error() {
    let mut bytes = jpeg(film(400, 300), 80);
    let half = bytes.len() / 2;
    for pair in bytes[half..half + 40].as_chunks_mut::<2>().0 {
        *pair = [0xff, 0x00];
    }
    let error = open(&bytes).unwrap_err();
    assert!(matches!(error, ImageError::Damaged { format: "JPEG", .. }), "{error}");
}

/// The end of an embedded thumbnail is not the end of the image.
#[test]
fn a_thumbnail_does_not_hide_a_cut() {
    let thumbnail = jpeg(film(16, 16), 50);
    let bytes = jpeg(film(200, 160), 80);
    let mut file = bytes[..2].to_vec();
    file.extend([0xff, 0xe1]);
    file.extend((thumbnail.len() as u16 + 2).to_be_bytes());
    file.extend(&thumbnail);
    file.extend(&bytes[2..]);
    assert_eq!(open(&file).unwrap(), open(&bytes).unwrap());
    let error = open(&file[..file.len() - 400]).unwrap_err();
    assert!(matches!(error, ImageError::Truncated { format: "JPEG", .. }), "{error}");
}

#[test]
fn what_is_no_image_is_named() {
    let mut dicom = vec![0; 128];
    dicom.extend(b"DICM\x02\0\0\0");
    let cases: [(&[u8], &str); 10] = [
        (b"", "empty"),
        (b"patient_id,age\n1,29\n", "text"),
        (b"<svg xmlns='http://www.w3.org/2000/svg'/>", "text"),
        (&dicom, "DICOM"),
        (b"RIFF\x10\0\0\0WEBPVP8 ", "WebP"),
        (b"GIF89a\x01\0", "GIF"),
        (b"II*\0\x08\0\0\0", "TIFF"),
        (b"%PDF-1.7", "PDF"),
        (b"\x89PNG", "cut off"),
        (b"\x00\x01\x02\x03", "unknown"),
    ];
    let folder = tempfile::tempdir().unwrap();
    for (content, expected) in cases {
        let path = folder.path().join("renamed.png");
        std::fs::write(&path, content).unwrap();
        let error = decode_file(&path, &DecodeOptions::default()).unwrap_err().to_string();
        assert!(error.contains(expected) && error.contains("renamed.png"), "{expected}: {error}");
    }
    for path in [folder.path().join("missing.png"), folder.path().to_owned()] {
        let error = decode_file(&path, &DecodeOptions::default()).unwrap_err();
        assert!(matches!(error, ImageError::Read { .. }), "{error}");
    }
}

#[test]
fn extreme_shapes_are_processed() {
    let processor = Idefics3Processor::new(PreprocessorConfig::with_tile_edge(384), "test").unwrap();
    for (width, height, grid) in [(1, 1, (4, 4)), (20_000, 3, (1, 4)), (3, 20_000, (4, 1)), (1, 2, (4, 2))] {
        for bytes in [png(film(width, height)), jpeg(film(width, height), 90)] {
            let image = open(&bytes).unwrap();
            assert_eq!((image.width(), image.height()), (width as usize, height as usize));
            let tiles = processor.process(&image);
            assert_eq!(tiles.grid(), Grid { rows: grid.0, cols: grid.1 }, "{width}×{height}");
            assert!(tiles.normalised().iter().all(|v| (-1.0..=1.0).contains(v) && *v != 0.0));
        }
    }
}

#[test]
fn bombs_are_refused_before_memory_is_taken() {
    // 50 000 × 50 000 pixels, in a header alone.
    let side = 50_000u32.to_be_bytes();
    let mut bomb = b"\x89PNG\r\n\x1a\n".to_vec();
    let mut header = [side, side].concat();
    header.extend([16, 6, 0, 0, 0]);
    chunk(&mut bomb, *b"IHDR", &header);
    chunk(&mut bomb, *b"IDAT", &stored(&[0; 100]));
    chunk(&mut bomb, *b"IEND", &[]);
    let error = open(&bomb).unwrap_err();
    assert!(matches!(error, ImageError::TooLarge { .. }), "{error}");

    let mut bytes = jpeg(film(64, 64), 80);
    let frame = bytes.windows(2).position(|w| w == [0xff, 0xc0]).unwrap();
    bytes[frame + 5..frame + 9].fill(0xff);
    let error = open(&bytes).unwrap_err().to_string();
    assert!(error.contains("65535×65535"), "{error}");

    let options = DecodeOptions { max_pixels: 99, ..DecodeOptions::default() };
    let error = decode(&png(film(10, 10)), "film.png", &options).unwrap_err().to_string();
    assert!(error.contains("10×10 pixels") && error.contains("99 pixels"), "{error}");
    let options = DecodeOptions { max_bytes: 20, ..DecodeOptions::default() };
    assert!(matches!(decode(&bytes, "film.png", &options), Err(ImageError::TooLarge { .. })));
}

/// Strictness must not turn away what other decoders read.
#[test]
fn good_jpegs_of_all_sizes_are_read() {
    for (width, height) in [(1, 1), (7, 9), (8, 8), (16, 17), (33, 64), (255, 3), (640, 480)] {
        for quality in [1, 50, 100] {
            let grey = film(width, height);
            let flat = GrayImage::from_pixel(width, height, Luma([90]));
            for image in [grey, flat] {
                let decoded = open(&jpeg(image, quality)).unwrap_or_else(|e| panic!("{width}×{height}: {e}"));
                assert!(decoded.is_grey());
            }
            let flat = RgbImage::from_pixel(width, height, Rgb([9, 99, 199]));
            for image in [colours(width, height), flat] {
                open(&jpeg(image, quality)).unwrap_or_else(|e| panic!("{width}×{height}: {e}"));
            }
        }
    }
}

#[test]
fn real_films_are_read() {
    for folder in ["data/cxr/images", "data/cxr-more/images"] {
        let Some(folder) = shared(folder) else { return };
        let mut count = 0;
        for entry in std::fs::read_dir(folder).unwrap() {
            let image = decode_file(entry.unwrap().path(), &DecodeOptions::default()).unwrap();
            assert!(image.width().max(image.height()) <= 1024, "{image:?}");
            count += 1;
        }
        assert!(count > 30, "{count}");
    }
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(400) })]

    #[test]
    fn damage_never_panics(
        which in 0usize..4, flips in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..12),
    ) {
        let mut bytes = match which {
            0 => jpeg(film(40, 30), 75),
            1 => jpeg(colours(33, 20), 90),
            2 => png(film(40, 30)),
            _ => png(ImageBuffer::from_fn(20, 9, |x, y| Luma([(x * y * 300) as u16]))),
        };
        for (at, value) in flips {
            let at = at.index(bytes.len());
            bytes[at] = value;
        }
        if let Err(error) = open(&bytes) {
            prop_assert!(error.to_string().contains("film.png"));
        }
    }
}

/// A PNG chunk with its checksum.
fn chunk(out: &mut Vec<u8>, kind: [u8; 4], data: &[u8]) {
    out.extend((data.len() as u32).to_be_bytes());
    let start = out.len();
    out.extend(kind);
    out.extend(data);
    let mut crc = u32::MAX;
    for &byte in &out[start..] {
        crc ^= u32::from(byte);
        for _ in 0..8 {
            crc = (crc >> 1) ^ (0xedb8_8320 & (crc & 1).wrapping_neg());
        }
    }
    out.extend((!crc).to_be_bytes());
}

/// A zlib stream of one stored block.
fn stored(data: &[u8]) -> Vec<u8> {
    let length = data.len() as u16;
    let mut out = vec![0x78, 0x01, 0x01];
    out.extend(length.to_le_bytes());
    out.extend((!length).to_le_bytes());
    out.extend(data);
    let (a, b) = data.iter().fold((1u32, 0u32), |(a, b), &v| {
        let a = (a + u32::from(v)) % 65_521;
        (a, (b + a) % 65_521)
    });
    out.extend((b << 16 | a).to_be_bytes());
    out
}
