//! `cuda/matmul.cu`.

use cudarc::driver::{LaunchConfig, PushKernelArg};
use half::bf16;

use super::{Element, Values, close, sum_roundings};
use crate::session::{Session, check};

/// Sizes of a product.
#[derive(Clone, Copy, Debug)]
struct Size {
    batch: usize,
    m: usize,
    n: usize,
    k: usize,
}

/// `A [batch, M, K]` by `W [batch, N, K]` transposed, in f64, with the sum of the terms' magnitudes.
fn oracle<T: Element>(a: &[T], w: &[T], bias: Option<&[T]>, size: Size) -> Vec<(f64, f64)> {
    let Size { batch, m, n, k } = size;
    let mut out = Vec::with_capacity(batch * m * n);
    for b in 0..batch {
        for row in 0..m {
            for column in 0..n {
                let bias = bias.map_or(0.0, |bias| bias[column].f64());
                let (mut sum, mut scale) = (bias, bias.abs());
                for i in 0..k {
                    let term = a[(b * m + row) * k + i].f64() * w[(b * n + column) * k + i].f64();
                    sum += term;
                    scale += term.abs();
                }
                out.push((sum, scale));
            }
        }
    }
    out
}

fn mma<Out: Element>(session: &Session, size: Size, with_bias: bool, name: &str) {
    let Size { batch, m, n, k } = size;
    let mut values = Values::new((m * 31 + n * 7 + k) as u64);
    let (a, w, bias) =
        (values.draw::<bf16>(batch * m * k), values.draw::<bf16>(batch * n * k), values.draw::<bf16>(n));
    let (a_device, w_device, bias_device) = (session.upload(&a), session.upload(&w), session.upload(&bias));
    let mut out = session.empty::<Out>(batch * m * n);
    let function = session.function(name);
    let grid_dim = (n.div_ceil(64) as u32, m.div_ceil(64) as u32, batch as u32);
    let config = LaunchConfig { grid_dim, block_dim: (128, 1, 1), shared_mem_bytes: 30_720 };
    let (a_batch, w_batch) = ((m * k) as u64, (n * k) as u64);
    let (rows, columns, depth) = (m as u32, n as u32, k as u32);
    let null = 0_u64;
    // SAFETY: sizes and strides are those of the buffers.
    unsafe {
        let mut launch = session.stream.launch_builder(&function);
        launch.arg(&mut out).arg(&a_device).arg(&w_device);
        if with_bias {
            launch.arg(&bias_device);
        } else {
            launch.arg(&null);
        }
        launch
            .arg(&rows)
            .arg(&columns)
            .arg(&depth)
            .arg(&a_batch)
            .arg(&w_batch)
            .launch(config)
            .expect("a launch");
    }
    let expected = oracle(&a, &w, with_bias.then_some(&bias), size);
    close(&session.download(&out), &expected, 1.0, sum_roundings(k), &format!("{name} {size:?}"));
}

#[test]
fn tensor_cores() {
    check(|session| {
        for (batch, m, n, k) in
            [(1, 64, 64, 32), (1, 1, 1, 8), (2, 70, 33, 40), (1, 65, 128, 96), (1, 3, 5, 0)]
        {
            let size = Size { batch, m, n, k };
            mma::<bf16>(session, size, true, "matmul_mma_bf16");
            mma::<f32>(session, size, false, "matmul_mma_bf16_f32");
        }
    });
}

#[test]
fn tensor_cores_on_more_blocks() {
    check(|session| {
        mma::<f32>(session, Size { batch: 1, m: 128, n: 192, k: 96 }, true, "matmul_mma_bf16_f32");
    });
}

fn simple<In: Element, Out: Element>(session: &Session, size: Size, name: &str) {
    let Size { batch, m, n, k } = size;
    let mut values = Values::new((m + n + k) as u64);
    let (a, w, bias) =
        (values.draw::<In>(batch * m * k), values.draw::<In>(batch * n * k), values.draw::<In>(n));
    let (a_device, w_device, bias_device) = (session.upload(&a), session.upload(&w), session.upload(&bias));
    let mut out = session.empty::<Out>(batch * m * n);
    let function = session.function(name);
    let grid_dim = (n.div_ceil(32) as u32, m.div_ceil(8) as u32, batch as u32);
    let config = LaunchConfig { grid_dim, block_dim: (32, 8, 1), shared_mem_bytes: 0 };
    let (rows, columns, depth) = (m as u32, n as u32, k as u32);
    let strides = [k, 1, m * k, 1, k, n * k].map(|stride| stride as u64);
    // SAFETY: sizes and strides are those of the buffers.
    unsafe {
        let mut launch = session.stream.launch_builder(&function);
        launch
            .arg(&mut out)
            .arg(&a_device)
            .arg(&w_device)
            .arg(&bias_device)
            .arg(&rows)
            .arg(&columns)
            .arg(&depth);
        for stride in &strides {
            launch.arg(stride);
        }
        launch.launch(config).expect("a launch");
    }
    close(
        &session.download(&out),
        &oracle(&a, &w, Some(&bias), size),
        1.0,
        sum_roundings(k),
        &format!("{name} {size:?}"),
    );
}

#[test]
fn one_thread_per_element() {
    check(|session| {
        for (batch, m, n, k) in [(1, 1, 1, 1), (2, 9, 33, 17)] {
            let size = Size { batch, m, n, k };
            simple::<f32, f32>(session, size, "matmul_simple_f32");
            simple::<bf16, bf16>(session, size, "matmul_simple_bf16");
            simple::<bf16, f32>(session, size, "matmul_simple_bf16_f32");
        }
    });
}
