//! `cuda/rms_norm.cu` and `cuda/layer_norm.cu`.

use cudarc::driver::PushKernelArg;
use half::bf16;

use super::{Element, Values, close, norm_roundings};
use crate::session::{Session, check, shape};

const EPS: f32 = 1e-5;

fn rms_oracle<T: Element>(x: &[T], w: &[T], n: usize) -> Vec<(f64, f64)> {
    let normalise = |row: &[T]| -> Vec<(f64, f64)> {
        let square = row.iter().map(|v| v.f64() * v.f64()).sum::<f64>() / n as f64;
        let scale = 1.0 / (square + f64::from(EPS)).sqrt();
        row.iter().zip(w).map(|(v, w)| v.f64() * scale * w.f64()).map(|y| (y, y.abs())).collect()
    };
    x.chunks(n).flat_map(normalise).collect()
}

fn layer_oracle<T: Element>(x: &[T], w: &[T], b: &[T], n: usize) -> Vec<(f64, f64)> {
    let normalise = |row: &[T]| -> Vec<(f64, f64)> {
        let mean = row.iter().map(|v| v.f64()).sum::<f64>() / n as f64;
        let variance = row.iter().map(|v| (v.f64() - mean).powi(2)).sum::<f64>() / n as f64;
        let scale = 1.0 / (variance + f64::from(EPS)).sqrt();
        let one = |(v, (w, b)): (&T, (&T, &T))| {
            let y = (v.f64() - mean) * scale * w.f64() + b.f64();
            (y, (v.f64().abs() + mean.abs()) * scale * w.f64().abs() + b.f64().abs())
        };
        row.iter().zip(w.iter().zip(b)).map(one).collect()
    };
    x.chunks(n).flat_map(normalise).collect()
}

fn norms<T: Element>(session: &Session, rows: usize, n: usize) {
    let mut values = Values::new((rows * n) as u64);
    let (x, w, b) = (values.draw::<T>(rows * n), values.draw::<T>(n), values.draw::<T>(n));
    let (x_device, w_device, b_device) = (session.upload(&x), session.upload(&w), session.upload(&b));
    let blocks = (rows as u32).div_ceil(4);
    let (count, width) = (rows as u32, n as u32);

    let name = format!("rms_norm_warp_{}", T::NAME);
    let function = session.function(&name);
    let mut y = session.empty::<T>(rows * n);
    // SAFETY: sizes are those of the buffers.
    unsafe {
        let mut launch = session.stream.launch_builder(&function);
        launch.arg(&mut y).arg(&x_device).arg(&w_device).arg(&count).arg(&width).arg(&EPS);
        launch.launch(shape(blocks, 128, 0)).expect("a launch");
    }
    close(&session.download(&y), &rms_oracle(&x, &w, n), 2.0, norm_roundings(n), &name);

    let name = format!("layer_norm_warp_{}", T::NAME);
    let function = session.function(&name);
    let mut y = session.empty::<T>(rows * n);
    // SAFETY: sizes are those of the buffers.
    unsafe {
        let mut launch = session.stream.launch_builder(&function);
        launch.arg(&mut y).arg(&x_device).arg(&w_device).arg(&b_device).arg(&count).arg(&width).arg(&EPS);
        launch.launch(shape(blocks, 128, 0)).expect("a launch");
    }
    close(&session.download(&y), &layer_oracle(&x, &w, &b, n), 2.0, norm_roundings(n), &name);
}

#[test]
fn a_warp_per_row() {
    check(|session| {
        for (rows, n) in [(1, 1), (5, 31), (6, 130)] {
            norms::<f32>(session, rows, n);
            norms::<bf16>(session, rows, n);
        }
    });
}

#[test]
fn a_block_per_row() {
    check(|session| {
        for (rows, n) in [(1, 8), (3, 2056), (2, 8192)] {
            let mut values = Values::new(n as u64);
            let (x, w) = (values.draw::<bf16>(rows * n), values.draw::<bf16>(n));
            let (x_device, w_device) = (session.upload(&x), session.upload(&w));
            let mut y = session.empty::<bf16>(rows * n);
            let function = session.function("rms_norm_block_bf16");
            let width = n as u32;
            // SAFETY: sizes are those of the buffers.
            unsafe {
                let mut launch = session.stream.launch_builder(&function);
                launch.arg(&mut y).arg(&x_device).arg(&w_device).arg(&width).arg(&EPS);
                launch.launch(shape(rows as u32, 256, 128)).expect("a launch");
            }
            close(
                &session.download(&y),
                &rms_oracle(&x, &w, n),
                2.0,
                norm_roundings(n),
                "rms_norm_block_bf16",
            );
        }
    });
}
