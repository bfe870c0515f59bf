//! Work that comes again becomes graphs, and nothing else changes.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::process::Command;

use cuda_host::StandIn;
use engine::cuda::Counts;
use engine::profile::{Clock, Recorder};
use engine::{DType, Device, Tensor};

use crate::{gpu, run};

/// `(x · w + 1) · …` for `rows` rows, `length` times, and the sum of it all.
fn chain(device: &Device, w: &Tensor, rows: usize, length: usize, start: f32) -> f32 {
    let x: Vec<f32> = (0..rows * 8).map(|i| start + i as f32 / 16.0).collect();
    let mut x = Tensor::from_slice(&x, &[rows, 8], device).unwrap();
    for i in 0..length {
        x = x.matmul(w).unwrap().affine(0.25, i as f32 / 8.0).unwrap();
    }
    x.sum(&[0, 1]).unwrap().to_vec::<f32>().unwrap()[0]
}

fn weight(device: &Device) -> Tensor {
    let w: Vec<f32> = (0..64).map(|i| (i % 7) as f32 / 4.0 - 0.5).collect();
    Tensor::from_slice(&w, &[8, 8], device).unwrap()
}

fn since(device: &Device, before: Counts) -> Counts {
    let now = gpu(device).graphs();
    Counts {
        made: now.made - before.made,
        launched: now.launched - before.launched,
        changed: now.changed - before.changed,
        plain: now.plain - before.plain,
    }
}

/// On the stand-in, with streams that run as late as they may.
fn lazily(test: impl FnOnce(&Device, &StandIn)) {
    run(|device, stand_in| {
        let Some(stand_in) = stand_in else { return println!("SKIP: counts are the stand-in's") };
        stand_in.set_lazy_streams(true);
        test(device, stand_in);
    });
}

#[test]
fn a_step_that_comes_again_is_a_few_graphs() {
    lazily(|device, stand_in| {
        let w = weight(device);
        let plain: Vec<f32> = (0..6).map(|i| chain(device, &w, 2, 30, i as f32)).collect();
        assert_eq!(gpu(device).graphs(), Counts::default(), "outside of steps nothing is noted");
        for (i, want) in plain.iter().enumerate() {
            let (before, calls) = (gpu(device).graphs(), stand_in.launches());
            let got = device.step("chain", || chain(device, &w, 2, 30, i as f32));
            assert_eq!(got.to_bits(), want.to_bits());
            let (counts, calls) = (since(device, before), stand_in.launches() - calls);
            // The upload, thirty times two, and the sum: 32 and the rest.
            if i == 0 {
                assert_eq!((counts.made, counts.launched, calls.graphs), (0, 0, 0), "{counts:?}");
            } else {
                assert_eq!((calls.kernels, calls.graphs), (0, 2), "{counts:?}");
                assert_eq!(counts.made, if i == 1 { 2 } else { 0 }, "{counts:?}");
                assert_eq!(counts.plain, 0, "{counts:?}");
            }
            if i >= 2 {
                assert!(counts.changed <= 4, "all but the upload is as it was: {counts:?}");
            }
        }
    });
}

/// Other sizes are changes of nodes, other kernels are launched plainly and become graphs of their own; the first ones stay.
#[test]
fn shapes_and_lengths_may_change() {
    lazily(|device, stand_in| {
        let w = weight(device);
        let step = |rows, length, start| device.step("chain", || chain(device, &w, rows, length, start));
        let right = |rows, length, start: f32| {
            let want = chain(device, &w, rows, length, start);
            assert_eq!(step(rows, length, start).to_bits(), want.to_bits(), "{rows} rows, {length} times");
        };
        for i in 0..3 {
            right(2, 10, i as f32);
        }
        let before = gpu(device).graphs();
        right(1, 10, 1.0);
        let counts = since(device, before);
        assert_eq!((counts.plain, counts.launched), (0, 1), "{counts:?}");
        assert!(counts.made == 1 || counts.changed > 5, "{counts:?}");
        let before = gpu(device).graphs();
        right(2, 12, 1.0);
        assert_eq!(since(device, before).launched, 0, "a sequence that was not seen before");
        right(2, 12, 2.0);
        let (before, calls) = (gpu(device).graphs(), stand_in.launches());
        step(2, 10, 5.0);
        step(2, 12, 5.0);
        let (counts, calls) = (since(device, before), stand_in.launches() - calls);
        assert_eq!((counts.made, counts.plain, calls.kernels, calls.graphs), (0, 0, 0, 2), "{counts:?}");
    });
}

/// A graph that the driver does not change is dropped: its work is launched plainly, and the next time there is a new one.
#[test]
fn a_change_that_is_refused_costs_a_graph() {
    lazily(|device, stand_in| {
        let w = weight(device);
        let want: Vec<f32> = (0..6).map(|i| chain(device, &w, 2, 30, i as f32)).collect();
        for (i, want) in want.iter().enumerate() {
            let before = gpu(device).graphs();
            stand_in.refuse_graph_changes(u64::from(i == 3));
            let got = device.step("chain", || chain(device, &w, 2, 30, i as f32));
            assert_eq!(got.to_bits(), want.to_bits());
            let counts = since(device, before);
            // Of two stretches the first, of 32 commands, has a node to change: the upload.
            match i {
                3 => assert_eq!((counts.made, counts.launched, counts.plain), (0, 1, 32), "{counts:?}"),
                4 => assert_eq!((counts.made, counts.launched, counts.plain), (1, 2, 0), "{counts:?}"),
                5 => assert_eq!((counts.made, counts.launched, counts.plain), (0, 2, 0), "{counts:?}"),
                _ => {}
            }
        }
    });
}

/// Blocks go back to the device only after what was noted has been launched.
#[test]
fn memory_of_noted_work_is_not_given_back() {
    lazily(|device, _| {
        let w = weight(device);
        let want = chain(device, &w, 2, 3, 1.0);
        for _ in 0..4 {
            let (y, zeros) = device.step("trim", || {
                let x: Vec<f32> = (0..16).map(|i| 1.0 + i as f32 / 16.0).collect();
                let mut x = Tensor::from_slice(&x, &[2, 8], device).unwrap();
                for i in 0..3 {
                    x = x.matmul(&w).unwrap().affine(0.25, i as f32 / 8.0).unwrap();
                    // All that the chain has dropped so far.
                    device.trim();
                }
                (x.sum(&[0, 1]).unwrap(), Tensor::zeros(&[1000], DType::F32, device).unwrap())
            });
            assert_eq!(y.to_vec::<f32>().unwrap()[0].to_bits(), want.to_bits());
            assert_eq!(zeros.to_vec::<f32>().unwrap(), [0.0; 1000]);
        }
    });
}

#[test]
fn a_bad_index_in_a_graph_is_told_by_the_next_read() {
    run(|device, _| {
        let table = Tensor::zeros(&[7, 2], DType::F32, device).unwrap();
        let look = |id: u32| {
            device.step("look", || {
                let mut y = table.embedding(&Tensor::from_slice(&[0u32, id], &[2], device).unwrap()).unwrap();
                for _ in 0..5 {
                    y = y.affine(2.0, 1.0).unwrap();
                }
                y
            })
        };
        for _ in 0..3 {
            assert_eq!(look(6).to_vec::<f32>().unwrap(), [31.0; 4]);
        }
        let text = look(9).to_vec::<f32>().unwrap_err().to_string();
        assert!(text.contains("embedding") && text.contains('9'), "{text}");
        assert_eq!(look(5).to_vec::<f32>().unwrap(), [31.0; 4]);
        assert!(gpu(device).graphs().launched >= 3);
    });
}

/// While someone listens, operations are launched and timed one by one.
#[test]
fn a_profile_of_a_step_tells_each_operation() {
    run(|device, _| {
        let w = weight(device);
        let step = || device.step("chain", || chain(device, &w, 2, 5, 1.0));
        let want = step();
        step();
        let launched = gpu(device).graphs().launched;
        assert!(launched > 0);
        let recorder = Recorder::new();
        assert_eq!(recorder.record(step).to_bits(), want.to_bits());
        assert_eq!(gpu(device).graphs().launched, launched);
        let recording = recorder.take();
        let device_spans = recording.spans().filter(|s| s.clock == Clock::Device).count();
        assert_eq!(device_spans, 11, "five products, five times affine, one sum");
        assert_eq!(step().to_bits(), want.to_bits());
        assert!(gpu(device).graphs().launched > launched);
    });
}

#[test]
fn a_step_that_panics_ends() {
    run(|device, _| {
        let w = weight(device);
        let want = chain(device, &w, 2, 5, 1.0);
        let panicked = catch_unwind(AssertUnwindSafe(|| {
            device.step("chain", || {
                let _lost = w.affine(2.0, 0.0).unwrap();
                panic!("on purpose");
            })
        }));
        assert!(panicked.is_err());
        let before = gpu(device).graphs();
        assert_eq!(chain(device, &w, 2, 5, 1.0).to_bits(), want.to_bits());
        assert_eq!(since(device, before), Counts::default());
    });
}

/// Threads that note into one stream give sequences that do not come again, and right results.
#[test]
fn threads_may_step_together() {
    run(|device, _| {
        let w = weight(device);
        let want: Vec<f32> = (0..3).map(|n| chain(device, &w, 2, 9, n as f32)).collect();
        std::thread::scope(|scope| {
            for (n, want) in want.iter().enumerate() {
                let w = &w;
                scope.spawn(move || {
                    for _ in 0..10 {
                        let got = device.step("chain", || chain(device, w, 2, 9, n as f32));
                        assert_eq!(got.to_bits(), want.to_bits());
                    }
                });
            }
        });
    });
}

#[test]
#[ignore = "started by `a_variable_turns_graphs_off`"]
fn with_graphs_off() {
    run(|device, stand_in| {
        let w = weight(device);
        let want = chain(device, &w, 2, 9, 1.0);
        let before = stand_in.map(StandIn::launches);
        for _ in 0..3 {
            assert_eq!(device.step("chain", || chain(device, &w, 2, 9, 1.0)).to_bits(), want.to_bits());
        }
        assert_eq!(gpu(device).graphs(), Counts::default());
        if let (Some(stand_in), Some(before)) = (stand_in, before) {
            let calls = stand_in.launches() - before;
            assert_eq!((calls.kernels, calls.graphs), (3 * 19, 0));
        }
    });
}

#[test]
fn a_variable_turns_graphs_off() {
    for name in ["ROENTGEN_CUDA_GRAPHS", "ROENTGEN_CUDA_SYNC"] {
        let value = if name.ends_with("SYNC") { "1" } else { "0" };
        let mut again = Command::new(std::env::current_exe().unwrap());
        let output =
            again.args(["--exact", "--ignored", "steps::with_graphs_off"]).env(name, value).output().unwrap();
        assert!(output.status.success(), "{name}: {}", String::from_utf8_lossy(&output.stdout));
    }
}
