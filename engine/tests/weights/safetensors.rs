//! Safetensors files: the `safetensors` crate is the oracle.

use std::collections::BTreeMap;
use std::path::Path;

use engine::weights::{FileDType, SafetensorsWriter, TensorSpec, Weights, write_safetensors};
use half::{bf16, f16};
use safetensors::SafeTensors;

use crate::{check_consistent, shared};

type Owned = (String, FileDType, Vec<usize>, Vec<u8>);

fn write(path: &Path, tensors: &[Owned], metadata: &BTreeMap<String, String>) {
    let borrowed = tensors.iter().map(|(n, d, s, b)| (n.as_str(), *d, s.as_slice(), b.as_slice()));
    write_safetensors(path, borrowed, metadata).unwrap();
}

/// One tensor of every type that the format holds, with odd sizes, none, and no dimensions.
fn every_type() -> Vec<Owned> {
    let shapes: [&[usize]; 4] = [&[3], &[], &[2, 0, 5], &[2, 3]];
    let plain = FileDType::DECODED.into_iter().filter(|d| d.block_values() == 1);
    let tensor = |(i, dtype): (usize, FileDType)| {
        let shape = shapes[i % 4].to_vec();
        let len = dtype.byte_len(shape.iter().product()).unwrap();
        let bytes =
            (0..len).map(|b| if dtype == FileDType::Bool { b % 2 } else { b * 7 + i } as u8).collect();
        (format!("layer.{i}.{dtype}"), dtype, shape, bytes)
    };
    plain.enumerate().map(tensor).collect()
}

#[test]
fn round_trip_agrees_with_the_reference_crate() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("model.safetensors");
    let tensors = every_type();
    let metadata: BTreeMap<_, _> =
        [("format", "pt"), ("quote", "\"β\"\n")].map(|(k, v)| (k.to_owned(), v.to_owned())).into();
    write(&path, &tensors, &metadata);

    let ours = Weights::open(&path).unwrap();
    check_consistent(&ours);
    assert_eq!(ours.metadata(), &metadata);
    let bytes = std::fs::read(&path).unwrap();
    let reference = SafeTensors::deserialize(&bytes).unwrap();
    assert_eq!((ours.entries().len(), reference.len()), (tensors.len(), tensors.len()));
    for (name, dtype, shape, bytes) in &tensors {
        let entry = ours.require(name).unwrap();
        assert_eq!((entry.dtype(), entry.shape(), entry.bytes()), (*dtype, &shape[..], &bytes[..]), "{name}");
        assert!(entry.aligned(), "{name}");
        let reference = reference.tensor(name).unwrap();
        assert_eq!(reference.dtype().to_string(), dtype.name());
        assert_eq!((reference.shape(), reference.data()), (&shape[..], &bytes[..]), "{name}");
    }
}

#[test]
fn the_streaming_writer_takes_any_order() {
    let tensors = every_type();
    let specs: Vec<_> =
        tensors.iter().map(|(name, dtype, shape, _)| TensorSpec { name, dtype: *dtype, shape }).collect();
    let none = BTreeMap::new();
    let write = |order: &mut dyn Iterator<Item = &Owned>| {
        let out = std::io::Cursor::new(Vec::new());
        let mut writer = SafetensorsWriter::new(out, Path::new("m"), &specs, &none).unwrap();
        order.for_each(|(name, _, _, bytes)| writer.write(name, bytes).unwrap());
        writer.finish().unwrap().into_inner()
    };
    let forwards = write(&mut tensors.iter());
    assert_eq!(forwards, write(&mut tensors.iter().rev()));
    SafeTensors::deserialize(&forwards).unwrap();
}

#[test]
fn no_tensors_is_a_file_too() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("empty.safetensors");
    write(&path, &[], &BTreeMap::new());
    assert_eq!(Weights::open(&path).unwrap().entries().len(), 0);
}

#[test]
fn replacing_a_mapped_file_leaves_the_reader_its_own() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("model.safetensors");
    let tensor = |byte| vec![("w".to_owned(), FileDType::U8, vec![5000], vec![byte; 5000])];
    write(&path, &tensor(1), &BTreeMap::new());
    let old = Weights::open(&path).unwrap();
    let entry = old.require("w").unwrap().clone();
    drop(old);
    write(&path, &tensor(2), &BTreeMap::new());
    assert_eq!(entry.bytes(), [1; 5000], "the entry no longer holds the map of the old file");
    assert_eq!(Weights::open(&path).unwrap().require("w").unwrap().bytes(), [2; 5000]);
}

#[cfg(unix)]
#[test]
fn writing_through_a_link_keeps_the_link() {
    let folder = tempfile::tempdir().unwrap();
    let (real, link) = (folder.path().join("real.safetensors"), folder.path().join("link.safetensors"));
    std::fs::write(&real, b"old").unwrap();
    std::os::unix::fs::symlink(&real, &link).unwrap();
    write(&link, &every_type(), &BTreeMap::new());
    assert!(link.is_symlink());
    assert_eq!(Weights::open(&real).unwrap().entries().len(), every_type().len());
    let nowhere = folder.path().join("absent/model.safetensors");
    let text = write_safetensors(&nowhere, [], &BTreeMap::new()).unwrap_err().to_string();
    assert!(text.contains("absent") && text.contains("cannot create"), "{text}");
    let text = write_safetensors(folder.path(), [], &BTreeMap::new()).unwrap_err().to_string();
    assert!(text.contains("is a folder"), "{text}");
}

/// The format does not promise alignment: 9 bytes of header padding put every tensor at an odd place.
#[test]
fn misaligned_values_are_read_by_copy() {
    let json = br#"{"f32":{"dtype":"F32","shape":[2],"data_offsets":[0,8]},"f16":{"dtype":"F16","shape":[2],"data_offsets":[8,12]},"bf16":{"dtype":"BF16","shape":[1],"data_offsets":[12,14]},"f64":{"dtype":"F64","shape":[1],"data_offsets":[14,22]}}"#;
    let odd = json.len().next_multiple_of(8) + 1;
    let mut file = (odd as u64).to_le_bytes().to_vec();
    file.extend(json);
    file.resize(8 + odd, b' ');
    file.extend(1.5f32.to_le_bytes());
    file.extend((-2.25f32).to_le_bytes());
    file.extend(f16::from_f32(0.5).to_le_bytes());
    file.extend(f16::from_f32(-3.0).to_le_bytes());
    file.extend(bf16::from_f32(7.0).to_le_bytes());
    file.extend(1e-3f64.to_le_bytes());
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("odd.safetensors");
    std::fs::write(&path, &file).unwrap();
    let weights = Weights::open(&path).unwrap();
    check_consistent(&weights);
    let entry = |name| weights.require(name).unwrap();
    assert!(weights.entries().iter().all(|e| !e.aligned()));
    assert_eq!(entry("f32").as_slice::<f32>(), None);
    assert_eq!(entry("f32").to_f32().unwrap(), [1.5, -2.25]);
    assert_eq!(entry("f16").to_f32().unwrap(), [0.5, -3.0]);
    assert_eq!(entry("f16").to_vec::<f16>().unwrap(), [f16::from_f32(0.5), f16::from_f32(-3.0)]);
    assert_eq!(entry("bf16").to_f32().unwrap(), [7.0]);
    assert_eq!(entry("f64").to_f32().unwrap(), [1e-3]);
}

#[test]
fn real_weights_of_a_vision_tower() {
    let Some(shared) = shared() else { return };
    let folder = shared.join("data/weights/smolvlm2-500m-vision-embeddings");
    let weights = Weights::open(&folder).unwrap();
    check_consistent(&weights);
    let patch = weights.require("model.vision_model.embeddings.patch_embedding.weight").unwrap();
    assert_eq!((patch.dtype(), patch.shape()), (FileDType::BF16, &[768, 3, 16, 16][..]));
    let in_place: &[bf16] = patch.as_slice().unwrap();
    assert_eq!(in_place.len(), 768 * 3 * 16 * 16);
    assert_eq!(
        patch.to_f32().unwrap()[..100],
        in_place[..100].iter().map(|x| x.to_f32()).collect::<Vec<_>>()
    );
    // The data set's own check: neighbouring positions are alike, opposite edges are not.
    let positions = weights.require("model.vision_model.embeddings.position_embedding.weight").unwrap();
    let cosine = |a: usize, b: usize| {
        let row = |i: usize| {
            let mut row = vec![0.0f32; 768];
            positions.read_rows(i..i + 1, &mut row).unwrap();
            row
        };
        let (a, b) = (row(a), row(b));
        let dot = |x: &[f32], y: &[f32]| x.iter().zip(y).map(|(x, y)| f64::from(x * y)).sum::<f64>();
        dot(&a, &b) / (dot(&a, &a) * dot(&b, &b)).sqrt()
    };
    assert!(cosine(500, 501) > 0.8 && cosine(0, 1023) < 0.7, "{} {}", cosine(500, 501), cosine(0, 1023));

    let alike = "is not there; names that end alike: model.vision_model.embeddings.patch_embedding.weight";
    for wrong in ["patch_embedding.weight", "vision_tower.embeddings.patch_embedding.weight"] {
        let text = weights.require(wrong).unwrap_err().to_string();
        assert!(text.ends_with(alike), "{text}");
    }
}

#[test]
fn every_shared_fixture_agrees_with_the_reference_crate() {
    fn visit(folder: &Path, seen: &mut usize) {
        for item in std::fs::read_dir(folder).unwrap() {
            let path = item.unwrap().path();
            if path.is_dir() {
                visit(&path, seen);
            } else if path.extension().is_some_and(|e| e == "safetensors") {
                let weights = Weights::open(&path).unwrap();
                check_consistent(&weights);
                let bytes = std::fs::read(&path).unwrap();
                let reference = SafeTensors::deserialize(&bytes).unwrap();
                assert_eq!(weights.entries().len(), reference.len(), "{}", path.display());
                for (name, tensor) in reference.iter() {
                    let entry = weights.require(name).unwrap();
                    assert_eq!((entry.shape(), entry.bytes()), (tensor.shape(), tensor.data()), "{name}");
                }
                *seen += 1;
            }
        }
    }
    let Some(shared) = shared() else { return };
    let mut seen = 0;
    visit(&shared.join("fixtures"), &mut seen);
    assert!(seen > 10, "only {seen} files were found");
}
