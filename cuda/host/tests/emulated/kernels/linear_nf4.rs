//! `cuda/linear_nf4.cu`.

use cudarc::driver::{LaunchConfig, PushKernelArg};
use half::bf16;

use super::{Element, Values, close, sum_roundings};
use crate::session::{Session, check, shape};

/// Values of the NF4 codes (Dettmers et al. 2023).
#[rustfmt::skip]
const NF4: [u32; 16] = [
    0xbf80_0000, 0xbf32_39b1, 0xbf06_6b30, 0xbeca_32a0, 0xbe91_a24d, 0xbe3d_353f, 0xbdba_7871, 0x0000_0000,
    0x3da2_faff, 0x3e24_cae3, 0x3e7c_04dd, 0x3ead_033a, 0x3ee1_a4b8, 0x3f10_07ab, 0x3f39_13b3, 0x3f80_0000,
];

const BLOCK: usize = 64;
const NESTED: usize = 4;

/// Which rung: one column a warp, or tiles of 64×64.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Rung {
    Gemv,
    Gemm,
}

fn linear<T: Element>(session: &Session, rung: Rung, [rows, outer, inner]: [usize; 3], nested: bool) {
    let mut values = Values::new((rows + outer + inner) as u64);
    let (x, bias) = (values.draw::<T>(rows * inner), values.draw::<T>(outer));
    let byte = |v: f32| ((v + 1.0) * 127.9) as u8;
    let codes: Vec<u8> = values.draw::<f32>(outer * inner / 2).into_iter().map(byte).collect();
    let blocks = outer * inner / BLOCK;
    let scale_codes: Vec<u8> = values.draw::<f32>(blocks).into_iter().map(byte).collect();
    let plain: Vec<f32> = values.draw::<f32>(blocks).into_iter().map(f32::abs).collect();
    let second: Vec<f32> = values.draw::<f32>(blocks.div_ceil(NESTED)).into_iter().map(f32::abs).collect();
    let map = values.draw::<f32>(256);
    let table = NF4.map(f32::from_bits);
    let offset = 0.25_f32;

    let (x_device, bias_device, codes_device) =
        (session.upload(&x), session.upload(&bias), session.upload(&codes));
    let (scales_device, plain_device) = (session.upload(&scale_codes), session.upload(&plain));
    let (second_device, map_device, table_device) =
        (session.upload(&second), session.upload(&map), session.upload(&table));
    let mut y = session.empty::<T>(rows * outer);
    let name = format!("linear_nf4_{}_{}", if rung == Rung::Gemv { "gemv" } else { "gemm" }, T::NAME);
    let function = session.function(&name);
    let null = 0_u64;
    let sizes = [NESTED.trailing_zeros(), rows as u32, outer as u32, inner as u32, BLOCK.trailing_zeros()];
    let config = match rung {
        Rung::Gemv => shape((outer as u32).div_ceil(4), 128, 2048),
        Rung::Gemm => LaunchConfig {
            grid_dim: (outer.div_ceil(64) as u32, rows.div_ceil(64) as u32, 1),
            block_dim: (128, 1, 1),
            shared_mem_bytes: 22_528,
        },
    };
    // SAFETY: sizes are those of the buffers.
    unsafe {
        let mut launch = session.stream.launch_builder(&function);
        launch.arg(&mut y).arg(&x_device).arg(&codes_device);
        if nested {
            launch.arg(&scales_device).arg(&second_device).arg(&map_device);
        } else {
            launch.arg(&plain_device).arg(&null).arg(&null);
        }
        launch.arg(&table_device).arg(&bias_device).arg(&offset);
        for size in &sizes {
            launch.arg(size);
        }
        launch.launch(config).expect("a launch");
    }

    let scale = |block: usize| {
        if nested { map[scale_codes[block] as usize] * second[block / NESTED] + offset } else { plain[block] }
    };
    let weight = |at: usize| {
        let code = codes[at / 2] >> (4 * (1 - at % 2)) & 15;
        T::of(table[code as usize] * scale(at / BLOCK)).f64()
    };
    let mut expected = Vec::new();
    for row in 0..rows {
        for (column, bias) in bias.iter().enumerate() {
            let mut sum = (bias.f64(), bias.f64().abs());
            for i in 0..inner {
                let term = x[row * inner + i].f64() * weight(column * inner + i);
                sum = (sum.0 + term, sum.1 + term.abs());
            }
            expected.push(sum);
        }
    }
    close(
        &session.download(&y),
        &expected,
        1.0,
        sum_roundings(inner),
        &format!("{name}, {rows} rows, nested {nested}"),
    );
}

#[test]
fn a_warp_per_column() {
    check(|session| {
        linear::<bf16>(session, Rung::Gemv, [1, 7, 1152], true);
        linear::<f32>(session, Rung::Gemv, [3, 5, 64], false);
        linear::<bf16>(session, Rung::Gemv, [8, 4, 192], false);
    });
}

#[test]
fn tensor_cores() {
    check(|session| {
        linear::<bf16>(session, Rung::Gemm, [9, 70, 192], true);
        linear::<bf16>(session, Rung::Gemm, [65, 3, 64], false);
    });
}
