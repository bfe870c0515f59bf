use engine::{DType, Device, Tensor};
use proptest::prelude::*;

use crate::harness::{
    Expect, Operand, Source, cases, check, devices, dims, float, full_dims, same_bits, seed,
};
use crate::tolerance::Class;
use crate::{gradient, oracle};

fn ids(source: &mut Source, dims: &[usize], rows: usize) -> Operand {
    source.operand(dims, DType::U32, |rng| rng.below(rows) as f64)
}

proptest! {
    #![proptest_config(cases(96))]

    #[test]
    fn matches_the_oracle(
        rows in 1usize..20, n in 0usize..40, lead in dims(0..=5, 4), dtype in float(), seed in seed(),
    ) {
        let mut source = Source::new(seed);
        let table = source.normal(&[rows, n], dtype);
        let ids = ids(&mut source, &lead, rows);
        let want = Expect::new(oracle::embedding(&table.values, &ids.values), dtype, Class::Exact);
        check(&[&table, &ids], |t| t[0].embedding(&t[1]), &want)?;
    }

    #[test]
    fn gradient_matches_differences(
        rows in 1usize..5, n in 1usize..4, lead in full_dims(0..=2, 4), dtype in float(), seed in seed(),
    ) {
        let mut source = Source::new(seed);
        let table = source.normal(&[rows, n], dtype);
        let ids = ids(&mut source, &lead, rows);
        let terms: usize = lead.iter().product();
        gradient::check(seed, &[&table], |t| t[0].embedding(&ids.on(t[0].device())?),
            |v| oracle::embedding(&v[0], &ids.values),
            gradient::Slack { terms, scale: (terms as f64).sqrt() })?;
    }
}

/// A table larger than what a GPU binds at once if it is asked to bind little (`paths` asks).
#[test]
fn a_table_in_pieces_matches() {
    for dtype in [DType::F32, DType::BF16] {
        let mut source = Source::new(8);
        let table = Operand::dense(&source.normal(&[1100, 512], dtype).values, dtype);
        let ids = ids(&mut source, &[3, 20], 1100);
        let want = Expect::new(oracle::embedding(&table.values, &ids.values), dtype, Class::Exact);
        check(&[&table, &ids], |t| t[0].embedding(&t[1]), &want).unwrap();
    }
}

#[test]
fn threads_change_nothing() {
    for dtype in [DType::F32, DType::BF16] {
        let mut source = Source::new(5);
        let table = source.normal(&[500, 96], dtype);
        let ids = ids(&mut source, &[3, 700], 40);
        same_bits(|device| {
            let table = table.on(device)?.tracked();
            let y = table.embedding(&ids.on(device)?)?;
            let mut gradients = y.backward_from(&y.detach())?;
            Ok(vec![y, gradients.take(&table).unwrap()])
        })
        .unwrap();
    }
}

#[test]
fn rows_that_no_id_names_have_gradient_zero() {
    for device in devices() {
        let table = Tensor::full(&[4, 2], 1.0, DType::BF16, &device).unwrap().tracked();
        let ids = Tensor::from_slice(&[2u32, 2, 0], &[3], &device).unwrap();
        let gradients = table.embedding(&ids).unwrap().sum(&[0, 1]).unwrap().backward().unwrap();
        let want = [1.0, 1.0, 0.0, 0.0, 2.0, 2.0, 0.0, 0.0];
        assert_eq!(gradients.get(&table).unwrap().to_f64_vec().unwrap(), want);
    }
}

#[test]
fn empty_rows_and_no_ids() {
    for device in devices() {
        for (n, count) in [(0, 3), (2, 0)] {
            let table = Tensor::zeros(&[4, n], DType::F32, &device).unwrap().tracked();
            let ids = Tensor::zeros(&[count], DType::U32, &device).unwrap();
            let y = table.embedding(&ids).unwrap();
            let gradients = y.backward_from(&y.detach()).unwrap();
            assert_eq!(gradients.get(&table).unwrap().to_f64_vec().unwrap(), vec![0.0; 4 * n]);
        }
    }
}

#[test]
fn an_id_outside_the_table_is_named() {
    for device in devices() {
        let table = Tensor::zeros(&[7, 2], DType::F32, &device).unwrap();
        let ids = Tensor::from_slice(&[0u32, 6, 3, 1, 2, 7], &[2, 3], &device).unwrap();
        // A device that runs behind says it with the next read.
        let error = |table: &Tensor, ids: &Tensor| {
            table.embedding(ids).and_then(|y| y.to_bytes()).unwrap_err().to_string()
        };
        let text = error(&table, &ids);
        assert!(text.contains("id 7 at [1, 2]") && text.contains("7 rows"), "{text}");
        let scalar = Tensor::from_slice(&[u32::MAX], &[], &device).unwrap();
        assert!(error(&table, &scalar).contains("id 4294967295"));
        let empty = Tensor::zeros(&[0, 2], DType::F32, &device).unwrap();
        // Where all are wrong, a GPU names any.
        let first = if device == Device::cpu() { "id 0 at [0, 0]" } else { "id " };
        let text = error(&empty, &ids);
        assert!(text.contains(first) && text.contains("0 rows"), "{text}");
        // And goes on.
        let right = ids.narrow(1, 0, 2).unwrap();
        assert_eq!(table.embedding(&right).unwrap().to_f64_vec().unwrap(), [0.0; 8]);
        assert_eq!(&empty.embedding(&ids.narrow(0, 0, 0).unwrap()).unwrap().dims()[..], [0, 3, 2]);
        let wide = Tensor::zeros(&[1; 6], DType::U32, &device).unwrap();
        assert!(table.embedding(&wide).is_err(), "seven dimensions");
    }
}
