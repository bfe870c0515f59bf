//! Tiles against the reference processor's, by hash: every byte and every f32 must agree.

mod common;

use common::{fixture, fixture_json};
use model::config::PreprocessorConfig;
use model::image::{Grid, Idefics3Processor, Image, Plan, resize};
use model::prompt::expand_image;
use proptest::prelude::*;
use serde_json::Value;
use sha2::{Digest, Sha256};

fn sha256(bytes: &[u8]) -> String {
    Sha256::digest(bytes).iter().map(|b| format!("{b:02x}")).collect()
}

/// The image of the fixture: two ramps and a product, so that rows, columns and channels all differ.
fn synthetic(width: usize, height: usize) -> Image {
    let mut rgb = Vec::with_capacity(3 * width * height);
    for y in 0..height {
        for x in 0..width {
            rgb.push((255 * x / (width - 1)) as u8);
            rgb.push((255 * y / (height - 1)) as u8);
            rgb.push(((7 * x + 13 * y + x * y / 64) % 256) as u8);
        }
    }
    Image::from_rgb(width, height, &rgb).unwrap()
}

fn processor(model: &str) -> Idefics3Processor {
    let tile = if model == "2.2B" { 384 } else { 512 };
    Idefics3Processor::new(PreprocessorConfig::with_tile_edge(tile), "test").unwrap()
}

fn number(value: &Value) -> usize {
    value.as_u64().unwrap() as usize
}

#[test]
fn every_stage_has_the_hash_of_the_reference() {
    let fixture = fixture_json("smolvlm-tiny/preprocess.json");
    let cases = fixture["cases"].as_array().unwrap();
    assert_eq!(cases.len(), 8);
    for case in cases {
        let name = format!("{} {}×{}", case["model"], case["width"], case["height"]);
        let image = synthetic(number(&case["width"]), number(&case["height"]));
        assert_eq!(sha256(&image.to_rgb()), case["sha256_input"], "{name}: input");

        let processor = processor(case["model"].as_str().unwrap());
        let plan = processor.plan(image.width(), image.height());
        let size = |key: &str| (number(&case[key][1]), number(&case[key][0]));
        assert_eq!(plan.first, size("step1_height_width"), "{name}");
        assert_eq!(plan.second, size("step2_height_width"), "{name}");
        assert_eq!(plan.grid, Grid { rows: number(&case["rows"]), cols: number(&case["cols"]) }, "{name}");
        let first = resize(&image, plan.first.0, plan.first.1);
        assert_eq!(sha256(&first.to_rgb()), case["sha256_step1"], "{name}: first resize");
        let second = resize(&first, plan.second.0, plan.second.1);
        assert_eq!(sha256(&second.to_rgb()), case["sha256_step2"], "{name}: second resize");

        let tiles = processor.process(&image);
        assert_eq!(tiles.count(), number(&case["tiles"]));
        let values = tiles.normalised();
        for (i, values) in values.chunks_exact(3 * tiles.edge() * tiles.edge()).enumerate() {
            assert_eq!(sha256(&tiles.tile(i).to_rgb()), case["sha256_tiles"][i], "{name}: tile {i}");
            let bytes: Vec<u8> = values.iter().flat_map(|value| value.to_le_bytes()).collect();
            assert_eq!(sha256(&bytes), case["sha256_pixel_values"][i], "{name}: values of tile {i}");
        }
    }
}

#[test]
fn bytes_become_the_values_of_the_reference() {
    let bytes = std::fs::read(fixture("smolvlm-tiny/preprocess.safetensors")).unwrap();
    let file = safetensors::SafeTensors::deserialize(&bytes).unwrap();
    let table = file.tensor("normalised_value_of_byte").unwrap();
    let (expected, _) = table.data().as_chunks::<4>();
    assert_eq!(expected.len(), 256);

    // One tile of 16 × 16 holds every byte, and is not resampled.
    let config = PreprocessorConfig { longest_edge: 16, ..PreprocessorConfig::with_tile_edge(16) };
    let processor = Idefics3Processor::new(config, "test").unwrap();
    let image = Image::from_grey(16, 16, (0..=255).collect()).unwrap();
    let tiles = processor.process(&image);
    assert_eq!((tiles.grid(), tiles.shape()), (Grid::default(), [1, 3, 16, 16]));
    for plane in tiles.normalised().chunks_exact(256) {
        for (value, expected) in plane.iter().zip(expected) {
            assert_eq!(value.to_bits(), u32::from_le_bytes(*expected));
            assert!(*value != 0.0);
        }
    }
}

/// Spec smolvlm §3: input, first and second size for 1536/384, grid, image tokens of 81 and of 64.
#[test]
fn sizes_are_those_of_the_table() {
    let table = [
        ((1024, 800), (1536, 1200), (1536, 1536), (4, 4), (1377, 1088)),
        ((512, 512), (1536, 1536), (1536, 1536), (4, 4), (1377, 1088)),
        ((2000, 2500), (1228, 1536), (1536, 1536), (4, 4), (1377, 1088)),
        ((300, 1000), (460, 1536), (768, 1536), (4, 2), (729, 576)),
        ((640, 480), (1536, 1152), (1536, 1152), (3, 4), (1053, 832)),
        ((995, 657), (1536, 1014), (1536, 1152), (3, 4), (1053, 832)),
        ((3000, 500), (1536, 256), (1536, 384), (1, 4), (405, 320)),
        ((2544, 3056), (1278, 1536), (1536, 1536), (4, 4), (1377, 1088)),
    ];
    for (input, first, second, (rows, cols), tokens) in table {
        let grid = Grid { rows, cols };
        assert_eq!(processor("2.2B").plan(input.0, input.1), Plan { first, second, grid }, "{input:?}");
        assert_eq!(processor("256M").plan(input.0, input.1).grid, grid, "{input:?}");
        let count = |per_tile: usize| expand_image(grid, per_tile).matches("<image>").count();
        assert_eq!((count(81), count(64)), tokens);
    }
}

#[test]
fn the_longest_edge_is_the_knob() {
    let tiles = |longest_edge: usize, width: usize, height: usize| {
        let config = PreprocessorConfig { longest_edge, ..PreprocessorConfig::with_tile_edge(384) };
        Idefics3Processor::new(config, "test").unwrap().plan(width, height).grid.tiles()
    };
    assert_eq!([384, 768, 1152, 1536].map(|edge| tiles(edge, 2544, 3056)), [1, 5, 10, 17]);
    assert_eq!(tiles(384, 3000, 500), 1);
}

#[test]
fn without_splitting_there_is_one_tile() {
    let config = PreprocessorConfig { do_image_splitting: false, ..PreprocessorConfig::with_tile_edge(384) };
    let processor = Idefics3Processor::new(config, "test").unwrap();
    let image = synthetic(300, 200);
    let tiles = processor.process(&image);
    assert_eq!((tiles.grid(), tiles.count()), (Grid::default(), 1));
    let expected = resize(&resize(&image, 1536, 1024), 384, 384);
    assert_eq!(tiles.tile(0), expected);
}

#[test]
fn grey_is_rgb_with_three_equal_channels() {
    let grey: Vec<u8> = (0..90 * 70u32).map(|i| (i * i / 7) as u8).collect();
    let rgb: Vec<u8> = grey.iter().flat_map(|&v| [v, v, v]).collect();
    let mut nearly = rgb.clone();
    nearly[0] ^= 1;
    let grey = Image::from_grey(90, 70, grey).unwrap();
    assert_eq!(Image::from_rgb(90, 70, &rgb).unwrap(), grey);
    let nearly = Image::from_rgb(90, 70, &nearly).unwrap();
    assert!(grey.is_grey() && !nearly.is_grey());
    let processor = processor("2.2B");
    let (grey, nearly) = (processor.process(&grey).normalised(), processor.process(&nearly).normalised());
    let different = grey.iter().zip(&nearly).filter(|(a, b)| a != b).count();
    assert!(different > 0 && different < grey.len() / 100, "{different}: only near the one pixel, in red");
    let area = 384 * 384;
    assert_eq!(grey[..area], grey[area..2 * area]);
    assert_eq!(grey[area..3 * area], nearly[area..3 * area], "green and blue are untouched");
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn any_size_gives_whole_tiles(width in 1usize..30_000, height in 1usize..30_000, large: bool) {
        let processor = processor(if large { "2.2B" } else { "256M" });
        let config = processor.config();
        let plan = processor.plan(width, height);
        prop_assert_eq!(plan.first.0.max(plan.first.1), config.longest_edge);
        prop_assert!(plan.first.0 >= 1 && plan.first.1 >= 1);
        let Grid { rows, cols } = plan.grid;
        prop_assert_eq!(plan.second, (cols * config.tile_edge, rows * config.tile_edge));
        prop_assert!((1..=4).contains(&rows) && (1..=4).contains(&cols) && rows.max(cols) == 4);
        prop_assert!(plan.second.0 >= plan.first.0 && plan.second.1 >= plan.first.1);
        let mirrored = processor.plan(height, width);
        // The two branches round the other edge alike up to one ulp; grids may differ only at that edge.
        prop_assert!(mirrored.grid.rows.abs_diff(cols) <= 1 && mirrored.grid.cols.abs_diff(rows) <= 1);
    }
}
