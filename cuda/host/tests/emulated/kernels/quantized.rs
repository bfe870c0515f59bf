//! Block-wise codes.

use engine::ops::{DequantizeBlockwise, QuantizeBlockwise};
use engine::{BlockFormat, Codebook, Device, Dims, Nested, Op, Tensor, apply, apply_one};

use super::call::{Call, On};
use super::draw::{Draw, captured};
use super::property;
use crate::session::Session;

const BOOKS: [Codebook; 4] = [Codebook::Nf4, Codebook::Fp4, Codebook::Dynamic, Codebook::DynamicUnsigned];

/// The values of a codebook.
pub(crate) fn table(session: &Session, book: Codebook) -> On {
    let values = book.values();
    session.on(&Tensor::from_slice(values, &[values.len()], &Device::cpu()).unwrap())
}

/// Pointers of a quantised tensor whose inputs begin with `parts`.
pub(crate) fn quantised<'a>(call: Call<'a>, format: &BlockFormat, parts: &[On], table: &On) -> Call<'a> {
    let nested = |i: usize| format.nested.map(|_| &parts[i]);
    call.pointers(&[&parts[0], &parts[1]]).optional(nested(2)).optional(nested(3)).pointers(&[table])
}

#[test]
fn quantize() {
    property(
        24,
        |d| {
            let (dtype, codebook, block) = (d.float(), d.of(&BOOKS), d.of(&[2, 6, 64, 256]));
            let count = d.of(&[1, 2, 63, 130, 1000]);
            // Zeros, blocks of zeros, and everything between.
            let small = d.of(&[0.0, 1e-20, 1.0]);
            let x = d.placed(&[count], dtype, |rng| {
                if rng.below(3) == 0 { 0.0 } else { small * f64::from(rng.normal()) }
            });
            captured(QuantizeBlockwise::NAME, || apply(QuantizeBlockwise { codebook, block }, &[&x]))
        },
        |session, application| {
            let op = application.op::<QuantizeBlockwise>().expect("quantize_blockwise");
            let (x, outputs) = (session.dense(&session.inputs(application)[0]), session.outputs(application));
            // Rising entries, of equal ones the first, and what lies between.
            let values = op.codebook.values();
            let mut codes: Vec<u8> = (0..values.len()).map(|c| c as u8).collect();
            codes.sort_by(|&a, &b| values[a as usize].total_cmp(&values[b as usize]));
            codes.dedup_by_key(|c| values[*c as usize]);
            let midpoints: Vec<f32> =
                codes.windows(2).map(|w| (values[w[0] as usize] + values[w[1] as usize]) * 0.5).collect();
            let cpu = Device::cpu();
            let entries = codes.len();
            let midpoints = session.on(&Tensor::from_slice(&midpoints, &[entries - 1], &cpu).unwrap());
            let codes = session.on(&Tensor::from_slice(&codes, &[entries], &cpu).unwrap());
            let call = session.call(format!("quantize_blockwise_{}", x.name()));
            let call = call.pointers(&[&outputs[0], &outputs[1], &x, &midpoints, &codes]);
            let call = call.sizes(&[x.count(), op.block, entries, op.codebook.bits()]);
            call.per_warp(x.count().div_ceil(op.block));
            session.back_all(&outputs)
        },
    );
}

#[test]
fn dequantize() {
    property(
        24,
        |d: &mut Draw| {
            let (out, codebook, block) = (d.float(), d.of(&BOOKS), d.of(&[2, 6, 64, 256]));
            let count = d.of(&[1, 2, 63, 130, 1000]);
            let x = d.dense(&[count], engine::DType::F32);
            let mut parts = apply(QuantizeBlockwise { codebook, block }, &[&x]).unwrap();
            let mut format = BlockFormat { codebook, block, nested: None };
            if d.chance() {
                let book = Codebook::Dynamic;
                let scales = apply(QuantizeBlockwise { codebook: book, block: 4 }, &[&parts[1]]).unwrap();
                format.nested = Some(Nested { block: 4, offset: 0.25 });
                let map = Tensor::from_slice(book.values(), &[256], &Device::cpu()).unwrap();
                parts = vec![parts[0].clone(), scales[0].clone(), scales[1].clone(), map];
            }
            let op = DequantizeBlockwise { format, dims: Dims::new(&[count]).unwrap(), out };
            let parts: Vec<&Tensor> = parts.iter().collect();
            captured(DequantizeBlockwise::NAME, || apply_one(op, &parts))
        },
        |session, application| {
            let op = application.op::<DequantizeBlockwise>().expect("dequantize_blockwise");
            let parts: Vec<On> = application.inputs().iter().map(|t| session.on(t)).collect();
            let (y, table) =
                (session.outputs(application).swap_remove(0), table(session, op.format.codebook));
            let call = session.call(format!("dequantize_blockwise_{}", y.name())).pointers(&[&y]);
            let call = quantised(call, &op.format, &parts, &table).blocks(&op.format);
            call.sizes(&[y.count(), op.format.codebook.bits()]).over(y.count());
            vec![session.back(&y)]
        },
    );
}
