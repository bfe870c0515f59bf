use engine::{DType, Device, Tensor};
use proptest::prelude::*;

use crate::harness::{Expect, Source, cases, compare, devices, dims, seed};
use crate::oracle::{Array, round};
use crate::tolerance::Class;

proptest! {
    #![proptest_config(cases(128))]

    #[test]
    fn a_strided_part_is_overwritten_and_nothing_else(
        dims in dims(1..=4, 5), from in prop::sample::select(&DType::ALL[..]),
        to in prop::sample::select(&DType::ALL[..]), seed in seed(),
    ) {
        let mut source = Source::new(seed);
        let old = source.uniform(&dims, to, 0.0, 200.0).values;
        // A part of the whole, its dimensions in another order.
        let axis = source.rng.below(dims.len());
        let start = source.rng.below(dims[axis] + 1);
        let len = source.rng.below(dims[axis] - start + 1);
        let mut axes: Vec<usize> = (0..dims.len()).collect();
        source.rng.shuffle(&mut axes);
        let shape = old.narrow(axis, start, len).permute(&axes).dims;
        let new = source.uniform(&shape, from, 0.0, 200.0);
        let mut inverse = vec![0; axes.len()];
        for (i, &a) in axes.iter().enumerate() {
            inverse[a] = i;
        }
        let back = new.values.permute(&inverse);
        let want = Array::from_fn(&dims, |index| {
            if (start..start + len).contains(&index[axis]) {
                let mut at = index.to_vec();
                at[axis] -= start;
                round(back.at(&at), to)
            } else {
                old.at(index)
            }
        });
        for device in devices() {
            let whole = Tensor::from_f64(&old.data, &dims, to, &device)?;
            whole.narrow(axis, start, len)?.permute(&axes)?.write(&new.on(&device)?)?;
            compare(&whole, &Expect::new(want.clone(), to, Class::Exact))?;
        }
    }
}

fn text(result: engine::Result<()>) -> String {
    result.unwrap_err().to_string()
}

#[test]
fn what_cannot_be_written_is_refused() {
    for device in devices() {
        let target = Tensor::zeros(&[2, 3], DType::F32, &device).unwrap();
        let wrong = Tensor::zeros(&[3, 2], DType::F32, &device).unwrap();
        let message = text(target.write(&wrong));
        assert!(
            message.contains("write") && message.contains("[3, 2]") && message.contains("[2, 3]"),
            "{message}"
        );
        // Overlap with the source.
        let message = text(target.narrow(0, 0, 1).unwrap().write(&target.narrow(0, 1, 1).unwrap()));
        assert!(message.contains("shares memory"), "{message}");
        // Several elements at one place.
        let wide = Tensor::zeros(&[1, 3], DType::F32, &device).unwrap().expand(&[2, 3]).unwrap();
        assert!(text(wide.write(&target)).contains("expanded"));
        // A tensor that the tape computed.
        let made = target.tracked().exp().unwrap();
        assert!(text(made.write(&target)).contains("tape"));
        // A leaf may be written: that is what an optimiser does.
        target.tracked().write(&Tensor::full(&[2, 3], 2.0, DType::F32, &device).unwrap()).unwrap();
        assert_eq!(target.to_f64_vec().unwrap(), [2.0; 6]);
    }
}

#[test]
fn a_mapped_file_is_read_only() {
    let device = Device::cpu();
    // A safetensors file whose one tensor stands for any bytes.
    let header = r#"{"x":{"dtype":"F32","shape":[14],"data_offsets":[0,56]}}"#;
    let mut bytes = (header.len() as u64).to_le_bytes().to_vec();
    bytes.extend(header.as_bytes());
    bytes.extend([0; 56]);
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("x.safetensors");
    std::fs::write(&path, &bytes).unwrap();
    let weights = engine::weights::Weights::open(&path).unwrap();
    let map = weights.get("x").unwrap().mapping().clone();
    let start = bytes.len() - 56;
    assert_eq!(start % 4, 0);
    let t = Tensor::from_mapped(&map, start..start + 16, &[4], DType::F32, &device).unwrap();
    assert_eq!(t.to_f64_vec().unwrap(), [0.0; 4]);
    let message = text(t.write(&Tensor::zeros(&[4], DType::F32, &device).unwrap()));
    assert!(message.contains("read-only"), "{message}");
    for range in [start..start + 17, start + 44..start + 60, 0..0] {
        assert!(Tensor::from_mapped(&map, range, &[4], DType::F32, &device).is_err());
    }
    // Unaligned for its type: copied.
    let odd = Tensor::from_mapped(&map, start + 1..start + 17, &[4], DType::F32, &device).unwrap();
    odd.write(&t).unwrap();
}
