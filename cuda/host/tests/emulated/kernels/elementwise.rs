//! `cuda/gelu.cu`, `cuda/gated_silu.cu`, `cuda/rope.cu` and `cuda/embedding.cu`.

use cudarc::driver::PushKernelArg;
use half::bf16;

use super::{Element, Values, close};
use crate::session::{Session, check, shape};

/// The error function by its series, which converges everywhere; f64 is enough for |x| < 5.
fn erf(x: f64) -> f64 {
    let mut term = x;
    let mut sum = x;
    for n in 1..200 {
        term *= -x * x / f64::from(n);
        sum += term / f64::from(2 * n + 1);
    }
    sum * std::f64::consts::FRAC_2_SQRT_PI
}

fn gelu(x: f64, exact: bool) -> f64 {
    if exact {
        return 0.5 * x * (1.0 + erf(x * std::f64::consts::FRAC_1_SQRT_2));
    }
    let inner = (2.0 / std::f64::consts::PI).sqrt() * (x + 0.044_715 * x.powi(3));
    0.5 * x * (1.0 + inner.tanh())
}

fn gates<T: Element>(session: &Session, count: usize) {
    let mut values = Values::new(count as u64);
    let x: Vec<T> = values.draw::<f32>(count).into_iter().map(|v| T::of(4.0 * v)).collect();
    let up = values.draw::<T>(count);
    let (x_device, up_device, length) = (session.upload(&x), session.upload(&up), count as u64);
    for exact in [0_u32, 1] {
        let name = format!("gelu_{}", T::NAME);
        let function = session.function(&name);
        let mut y = session.empty::<T>(count);
        // SAFETY: the kernel reads and writes `count` values.
        unsafe {
            let mut launch = session.stream.launch_builder(&function);
            launch
                .arg(&mut y)
                .arg(&x_device)
                .arg(&length)
                .arg(&exact)
                .launch(shape(2, 64, 0))
                .expect("a launch");
        }
        // In the negative tail 1 + erf is a difference of numbers near 1: errors are relative to x.
        let expected: Vec<_> = x.iter().map(|x| (gelu(x.f64(), exact == 1), x.f64().abs())).collect();
        close(&session.download(&y), &expected, 1.0, 8.0, &format!("{name}, exact {exact}"));
    }

    let name = format!("gated_silu_{}", T::NAME);
    let function = session.function(&name);
    let mut y = session.empty::<T>(count);
    // SAFETY: the kernel reads and writes `count` values.
    unsafe {
        let mut launch = session.stream.launch_builder(&function);
        launch
            .arg(&mut y)
            .arg(&x_device)
            .arg(&up_device)
            .arg(&length)
            .launch(shape(2, 64, 0))
            .expect("a launch");
    }
    let silu = |(g, u): (&T, &T)| g.f64() / (1.0 + (-g.f64()).exp()) * u.f64();
    let expected: Vec<_> = x.iter().zip(&up).map(silu).map(|y| (y, y.abs())).collect();
    close(&session.download(&y), &expected, 1.0, 8.0, &name);
}

#[test]
fn activations() {
    check(|session| {
        for count in [1, 333] {
            gates::<f32>(session, count);
            gates::<bf16>(session, count);
        }
    });
}

fn rope<T: Element>(session: &Session, interleaved: bool, inverse: bool) {
    let (tokens, heads, d, table_rows) = (5_usize, 3_usize, 12_usize, 40_usize);
    let mut values = Values::new(d as u64);
    let x = values.draw::<T>(tokens * heads * d);
    let positions = [0_u32, 1, 39, 7, 7];
    let angle = |p: usize, i: usize| p as f64 * 10_000_f64.powf(-2.0 * i as f64 / d as f64);
    let table = |f: fn(f64) -> f64| -> Vec<f32> {
        (0..table_rows * d / 2).map(|at| f(angle(at / (d / 2), at % (d / 2))) as f32).collect()
    };
    let (cosines, sines) = (session.upload(&table(f64::cos)), session.upload(&table(f64::sin)));
    let (x_device, positions_device) = (session.upload(&x), session.upload(&positions));
    let mut y = session.empty::<T>(x.len());
    let name = format!("rope_{}", T::NAME);
    let function = session.function(&name);
    let sizes =
        [tokens, heads, d, table_rows, usize::from(interleaved), usize::from(inverse)].map(|s| s as u32);
    // SAFETY: sizes are those of the buffers.
    unsafe {
        let mut launch = session.stream.launch_builder(&function);
        launch.arg(&mut y).arg(&x_device).arg(&positions_device).arg(&cosines).arg(&sines);
        for size in &sizes {
            launch.arg(size);
        }
        launch.launch(shape(((tokens * heads * d / 2) as u32).div_ceil(64), 64, 0)).expect("a launch");
    }
    let mut expected = vec![(0.0, 0.0); x.len()];
    for (head, values) in x.chunks(d).enumerate() {
        for i in 0..d / 2 {
            let turn = angle(positions[head / heads] as usize, i) * if inverse { -1.0 } else { 1.0 };
            let (first, second) = if interleaved { (2 * i, 2 * i + 1) } else { (i, i + d / 2) };
            let (a, b) = (values[first].f64(), values[second].f64());
            let (sin, cos) = turn.sin_cos();
            let scale = a.abs() + b.abs();
            expected[head * d + first] = (a * cos - b * sin, scale);
            expected[head * d + second] = (b * cos + a * sin, scale);
        }
    }
    // Four roundings to the element type, of terms as large as the scale: cosine and sine, the products, the sum.
    let in_f32 = 8.0 + 3.0 * T::ROUNDOFF / f32::ROUNDOFF;
    close(&session.download(&y), &expected, 1.0, in_f32, &format!("{name}, {interleaved} {inverse}"));
}

#[test]
fn rotations() {
    check(|session| {
        for interleaved in [false, true] {
            rope::<f32>(session, interleaved, false);
            rope::<bf16>(session, interleaved, true);
        }
    });
}

#[test]
fn rows_of_a_table() {
    check(|session| {
        for (name, n) in [("embedding_2", 7_usize), ("embedding_16", 40)] {
            let table = Values::new(1).draw::<bf16>(9 * n);
            let ids = [3_u32, 0, 8, 3, 5];
            let launched = |ids: &[u32]| {
                let (table_device, ids_device) = (session.upload(&table), session.upload(ids));
                let mut bad = session.stream.alloc_zeros::<u32>(1).expect("an allocation");
                let mut y = session.empty::<bf16>(ids.len() * n);
                let function = session.function(name);
                let (count, rows, bytes) = (ids.len() as u32, 9_u32, 2 * n as u32);
                // SAFETY: sizes are those of the buffers.
                unsafe {
                    let mut launch = session.stream.launch_builder(&function);
                    launch.arg(&mut y).arg(&table_device).arg(&ids_device).arg(&mut bad);
                    launch.arg(&count).arg(&rows).arg(&bytes).launch(shape(2, 128, 0)).expect("a launch");
                }
                (session.download(&y), session.download(&bad)[0])
            };
            let (y, bad) = launched(&ids);
            assert_eq!(bad, 0);
            let expected: Vec<bf16> =
                ids.iter().flat_map(|&id| table[id as usize * n..][..n].to_vec()).collect();
            assert_eq!(y, expected, "{name}");
            assert_eq!(launched(&[1, 9]).1, 2, "{name}: the second id is out of range");
        }
    });
}
