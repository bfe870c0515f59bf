//! What the program writes about the same images: its CPU backend, greedy.

use std::io::Cursor;
use std::ops::ControlFlow;
use std::path::PathBuf;

use engine::Device;
use image::{ColorType, DynamicImage, ImageFormat};
use model::bundle::Bundle;
use model::generate::{Options, generate};
use model::image::{DecodeOptions, decode};
use model::prompt::report::{Limit, message};

/// Tokens of an answer that is about pixels.
const FEW: usize = 4;

/// Folder of the demonstration model.
pub(crate) fn demo_folder() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("assets/demo")
}

/// An image with its case.
pub(crate) struct Asked {
    /// Path on the server.
    path: String,
    bytes: Vec<u8>,
    case: &'static str,
    most: usize,
}

impl Asked {
    /// One of the demonstration model's images.
    pub(crate) fn demo(name: &str, case: &'static str) -> Self {
        let bytes = std::fs::read(demo_folder().join("images").join(name)).unwrap();
        Self {
            path: format!("/assets/demo/images/{name}"),
            bytes,
            case,
            most: Options::default().max_new_tokens,
        }
    }

    /// A PNG of this type that is no square and has a gradient in every channel.
    pub(crate) fn png(path: &str, color: ColorType) -> Self {
        let (width, height) = (333u32, 217u32);
        let at = |x: u32, y: u32, c: u32| (x * (7 + c) + y * y / 5 + (x * y) % (41 + c)) % 1000;
        let picture = match color {
            ColorType::L8 => DynamicImage::ImageLuma8(image::ImageBuffer::from_fn(width, height, |x, y| {
                image::Luma([(at(x, y, 0) / 4) as u8])
            })),
            ColorType::L16 => {
                DynamicImage::ImageLuma16(image::ImageBuffer::from_fn(width, height, |x, y| {
                    image::Luma([at(x, y, 0) as u16 * 3 + 700])
                }))
            }
            ColorType::Rgba8 => {
                DynamicImage::ImageRgba8(image::ImageBuffer::from_fn(width, height, |x, y| {
                    image::Rgba([0, 1, 2, 3].map(|c| (at(x, y, c) / 4) as u8))
                }))
            }
            other => panic!("{other:?}"),
        };
        let mut bytes = Cursor::new(Vec::new());
        picture.write_to(&mut bytes, ImageFormat::Png).unwrap();
        Self { path: path.to_owned(), bytes: bytes.into_inner(), case: "", most: FEW }
    }

    pub(crate) fn name(&self) -> &str {
        &self.path
    }

    pub(crate) fn is_jpeg(&self) -> bool {
        self.bytes.starts_with(&[0xff, 0xd8])
    }

    /// Path and content, if the repository does not have the file.
    pub(crate) fn served(&self) -> Option<(String, Vec<u8>)> {
        self.path.starts_with("/test/").then(|| (self.path.clone(), self.bytes.clone()))
    }

    /// Its part of the page's query.
    pub(crate) fn query(&self) -> String {
        let case: String = self.case.bytes().map(|b| format!("%{b:02x}")).collect();
        format!("image={}&case={case}&most={}", self.path, self.most)
    }
}

/// What the program made of an image.
pub(crate) struct Expected {
    pub(crate) prompt_ids: Vec<u32>,
    /// Bytes of each tile's planes.
    pub(crate) tiles: Vec<Vec<Vec<u8>>>,
    pub(crate) ids: Vec<u32>,
    pub(crate) text: String,
}

/// The demonstration model on the CPU.
pub(crate) struct Program {
    bundle: Bundle,
}

impl Program {
    pub(crate) fn open() -> Self {
        Self { bundle: Bundle::open(&demo_folder(), None, &Device::cpu()).unwrap() }
    }

    /// As `roentgen report` does it.
    pub(crate) fn answer(&self, asked: &Asked) -> Expected {
        let image = decode(&asked.bytes, &asked.path, &DecodeOptions::default()).unwrap();
        let tiles = self.bundle.processor.as_ref().unwrap().process(&image);
        let area = tiles.edge() * tiles.edge();
        let planes: Vec<Vec<u8>> = tiles.bytes().chunks(area).map(<[u8]>::to_vec).collect();
        let of_tiles = planes.chunks(tiles.channels()).map(<[Vec<u8>]>::to_vec).collect();
        let case = Some(asked.case).filter(|case| !case.is_empty());
        let prompt = self.bundle.prompt(&[message(case, Limit::default())], &[tiles]).unwrap();
        let prompt_ids = prompt.ids.clone();
        let options = Options {
            max_new_tokens: asked.most,
            stop_tokens: self.bundle.stop_tokens(),
            ..Options::default()
        };
        let tokenizer = Some(&self.bundle.tokenizer);
        let (mut answers, _) =
            generate(self.bundle.decoder(), tokenizer, &[prompt], &options, &mut |_, _| {
                ControlFlow::Continue(())
            })
            .unwrap();
        let answer = answers.pop().unwrap();
        Expected { prompt_ids, tiles: of_tiles, ids: answer.ids, text: answer.text }
    }
}
