//! The CUDA backend beside its kernels: memory, copies, faults, times, and what it leaves behind. On the stand-in driver, or with
//! `ROENTGEN_CUDA=device` on this machine's GPU.

mod steps;

use std::process::Command;
use std::sync::{Mutex, PoisonError};

use cuda_host::StandIn;
use engine::ops::Affine;
use engine::profile::{Clock, Recorder};
use engine::{Cuda, DType, Device, Result, Tensor, apply_one};

/// One test at a time has the driver: at its end the context is released, which tells what was left.
static ALONE: Mutex<()> = Mutex::new(());

/// Runs `test` on a device of its own, then asserts that it left nothing behind.
fn run(test: impl FnOnce(&Device, Option<&StandIn>)) {
    let _alone = ALONE.lock().unwrap_or_else(PoisonError::into_inner);
    let hardware = std::env::var_os("ROENTGEN_CUDA").is_some_and(|v| v == "device");
    let stand_in = if hardware { None } else { cuda_host::load() };
    if !hardware && stand_in.is_none() {
        return;
    }
    let device = match Device::cuda(0) {
        Ok(device) => device,
        Err(e) => {
            assert!(!cuda_host::required(), "{e}");
            println!("SKIP: {e}");
            return;
        }
    };
    test(&device, stand_in);
    drop(device);
    if let Some(stand_in) = stand_in {
        stand_in.set_lazy_streams(false);
        let failures = stand_in.take_failures();
        assert!(failures.is_empty(), "{failures:#?}");
    }
}

fn gpu(device: &Device) -> &Cuda {
    device.backend().expect("a CUDA device")
}

#[test]
fn an_emulated_device_says_so() {
    run(|device, stand_in| {
        let facts = gpu(device).facts();
        assert_eq!(facts.emulated, stand_in.is_some());
        assert!(facts.multiprocessors > 0 && facts.memory > 1 << 30 && facts.target().starts_with("sm_"));
        assert!(!facts.kernels.is_empty());
    });
}

#[test]
fn a_device_that_is_not_there_is_an_error() {
    run(|_, _| {
        let text = Device::cuda(77).err().unwrap().to_string();
        assert!(text.contains("no usable device 77"), "{text}");
    });
}

/// What the device was at before is not counted, nor what the host did meanwhile; more work takes longer.
#[test]
fn a_device_tells_how_long_work_took() {
    run(|device, stand_in| {
        // A few milliseconds: on a GPU a launch alone takes microseconds, and a chain of 4096 not much more.
        let most = if stand_in.is_some() { 4096 } else { 1 << 22 };
        let x = Tensor::zeros(&[1024], DType::F32, device).unwrap();
        let time = |rounds: usize| {
            let work = || x.burst_multiply_adds(rounds).map(drop);
            device.elapsed(work).unwrap().expect("a clock").as_secs_f64()
        };
        time(16);
        let short = (0..5).map(|_| time(16)).fold(f64::INFINITY, f64::min);
        let long = time(most);
        assert!(long > 4.0 * short && short > 0.0, "{short} and {long} s");
        x.burst_multiply_adds(most).unwrap();
        let behind = time(16);
        assert!(behind < long / 2.0, "{behind} s behind work of {long} s");
        let failed = device.elapsed(|| Err(engine::Error::Device("as asked".into())));
        assert!(failed.unwrap_err().to_string().contains("as asked"));
        assert_eq!(Device::cpu().elapsed(|| Ok(())).unwrap(), None);
    });
}

/// Larger than all of the pinned memory that copies go through, in streams that run as late as they may: a part that is filled again too early
/// would show.
#[test]
fn what_is_uploaded_comes_back() {
    run(|device, stand_in| {
        if let Some(stand_in) = stand_in {
            stand_in.set_lazy_streams(true);
        }
        let bytes: Vec<u8> = (0..37 << 20).map(|i: u32| (i.wrapping_mul(0x9e37_79b9) >> 24) as u8).collect();
        let all = Tensor::from_slice(&bytes, &[bytes.len()], device).unwrap();
        // Small ones share parts with large ones.
        let small: Vec<Tensor> =
            (0..1000u32).map(|i| Tensor::from_slice(&[i, i + 1], &[2], device).unwrap()).collect();
        assert!(all.to_vec::<u8>().unwrap() == bytes);
        for (i, t) in (0..).zip(&small) {
            assert_eq!(t.to_vec::<u32>().unwrap(), [i, i + 1]);
        }
        let part = all.narrow(0, 5_000_001, 9_000_007).unwrap();
        assert!(part.to_strided_bytes().unwrap() == bytes[5_000_001..14_000_008]);
        assert_eq!(all.narrow(0, 3, 0).unwrap().to_vec::<u8>().unwrap(), [0; 0]);
    });
}

#[test]
fn freed_memory_is_used_again() {
    run(|device, _| {
        let zeros = |n: usize| Tensor::zeros(&[n], DType::F32, device).unwrap();
        let fixed = gpu(device).buffer_bytes()[0];
        let mut x = Tensor::full(&[100_000], 7.0, DType::F32, device).unwrap();
        for _ in 0..50 {
            x = x.affine(1.0, 1.0).unwrap();
        }
        let [live, idle, most] = gpu(device).buffer_bytes();
        let block = 409_600;
        assert_eq!(live - fixed, block, "one tensor lives, in its size class");
        assert!(most - fixed <= 3 * block, "{most} bytes for a chain of two blocks, and a scalar");
        assert_eq!(x.to_vec::<f32>().unwrap(), vec![57.0; 100_000]);
        drop(x);
        // A block that held something is zeroed when zeros are asked for.
        assert_eq!(zeros(100_000).to_vec::<f32>().unwrap(), vec![0.0; 100_000]);
        assert!(idle > 0);
        device.trim();
        assert_eq!(gpu(device).buffer_bytes()[..2], [fixed, 0]);
    });
}

#[test]
fn too_much_memory_is_an_error_and_not_the_end() {
    run(|device, stand_in| {
        // The emulator's device has 4 GiB; on hardware more than any has.
        let elements = if stand_in.is_some() { 1 << 30 } else { 1usize << 42 };
        let text = Tensor::zeros(&[elements, 2], DType::F32, device).unwrap_err().to_string();
        assert!(text.contains("cannot allocate") && text.contains("cuda"), "{text}");
        let x = Tensor::from_slice(&[1f32, 2.0], &[2], device).unwrap();
        assert_eq!(x.affine(2.0, 0.0).unwrap().to_vec::<f32>().unwrap(), [2.0, 4.0]);
    });
}

#[test]
#[ignore = "started by `memory_whose_release_is_queued_is_waited_for`"]
fn with_late_frees() {
    run(|device, _| {
        let memory = gpu(device).facts().memory as usize;
        assert_eq!(memory, 64 << 20);
        let zeros = |bytes: usize| Tensor::zeros(&[bytes / 4], DType::F32, device);
        // More than ever lived: all that is idle goes back, and still nothing is free until the stream has come to it.
        drop(zeros(memory / 32 * 15).unwrap());
        let more = zeros(memory / 32 * 20).unwrap();
        assert_eq!(more.sum(&[0]).unwrap().to_vec::<f32>().unwrap(), [0.0]);
        assert!(zeros(memory / 2).is_err(), "there is no more");
        drop(more);
        zeros(memory / 2).unwrap();
    });
}

#[test]
fn memory_whose_release_is_queued_is_waited_for() {
    if std::env::var_os("ROENTGEN_CUDA").is_some_and(|v| v == "device") || cuda_host::load().is_none() {
        return println!("SKIP: when memory is free again is the stand-in's to say");
    }
    let mut again = Command::new(std::env::current_exe().unwrap());
    let settings = [("MEMORY_MIB", "64"), ("STREAMS", "lazy"), ("FREES", "late")];
    again.envs(settings.map(|(name, value)| (format!("ROENTGEN_EMULATOR_{name}"), value)));
    let output = again.args(["--exact", "--ignored", "with_late_frees"]).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stdout));
}

/// A kernel of a source that is loaded, in memory that is lent again: the thread's first call of the driver is the search for it.
#[test]
fn a_new_thread_finds_kernels_of_loaded_sources() {
    run(|device, _| {
        let x = Tensor::full(&[1000], 2.0, DType::F32, device).unwrap();
        let [bf16, f16] = [DType::BF16, DType::F16].map(|dtype| x.to_dtype(dtype).unwrap());
        drop(bf16.affine(1.0, 1.0).unwrap());
        let y = std::thread::scope(|scope| scope.spawn(|| f16.affine(1.0, 1.0).unwrap()).join().unwrap());
        assert_eq!(y.to_f64_vec().unwrap(), [3.0; 1000]);
    });
}

/// As the CPU says it, but at the next read; after that all is well again.
#[test]
fn a_bad_index_is_told_by_the_next_read() {
    type Call = fn(&Device) -> Result<Tensor>;
    let calls: [Call; 4] = [
        |device| {
            let table = Tensor::zeros(&[7, 2], DType::F32, device)?;
            table.embedding(&Tensor::from_slice(&[0u32, 6, 3, 1, 2, 7], &[2, 3], device)?)
        },
        |device| {
            let base = Tensor::zeros(&[3, 2], DType::BF16, device)?;
            base.scatter_rows(
                &Tensor::zeros(&[2, 2], DType::BF16, device)?,
                &Tensor::from_slice(&[1u32, 9], &[2], device)?,
            )
        },
        |device| {
            let logits = Tensor::zeros(&[3, 5], DType::F32, device)?;
            logits.cross_entropy(&Tensor::from_slice(&[4i32, -100, -7], &[3], device)?, -100)
        },
        |device| {
            let table = Tensor::zeros(&[7, 2], DType::F32, device)?.tracked();
            let y = table.embedding(&Tensor::from_slice(&[u32::MAX], &[1], device)?)?;
            y.sum(&[0, 1])
        },
    ];
    run(|device, _| {
        for call in calls {
            let want = call(&Device::cpu()).and_then(|t| t.to_f64_vec()).unwrap_err().to_string();
            let late = call(device).unwrap();
            assert_eq!(late.to_f64_vec().unwrap_err().to_string(), want);
            assert!(late.to_f64_vec().is_ok(), "told once");
        }
        // Two at once: the first in time is told.
        let good = calls[1](device).unwrap();
        let bad = calls[0](device).unwrap();
        drop(bad);
        let text = good.to_f64_vec().unwrap_err().to_string();
        assert!(text.contains("scatter_rows"), "{text}");
    });
}

#[test]
fn an_index_that_stands_twice_is_told() {
    run(|device, _| {
        let base = Tensor::zeros(&[4, 1], DType::F32, device).unwrap();
        let rows = Tensor::zeros(&[3, 1], DType::F32, device).unwrap();
        let index = Tensor::from_slice(&[2u32, 0, 2], &[3], device).unwrap();
        let text = base.scatter_rows(&rows, &index).unwrap().to_f64_vec().unwrap_err().to_string();
        assert!(text.contains("scatter_rows") && text.contains("index 2 stands at two places"), "{text}");
    });
}

/// The device's clock: kernels in their order, within the time that the host waited.
#[test]
fn the_profiler_hears_when_kernels_ran() {
    run(|device, _| {
        let x = Tensor::from_slice(&[1f32; 4096], &[64, 64], device).unwrap();
        let recorder = Recorder::new();
        recorder.record(|| {
            let y = x.matmul(&x).unwrap();
            let z = apply_one(Affine { mul: 2.0, add: 1.0 }, &[&y]).unwrap();
            // The same again is another application.
            let z = apply_one(Affine { mul: 2.0, add: 1.0 }, &[&z]).unwrap();
            z.to_vec::<f32>().unwrap()
        });
        let recording = recorder.take();
        let mut spans: Vec<_> = recording.spans().filter(|s| s.clock == Clock::Device).collect();
        spans.sort_by_key(|s| s.start);
        let names: Vec<&str> = spans.iter().map(|s| recording.name(s)).collect();
        assert_eq!(names, ["matmul", "affine", "affine"]);
        assert!(spans[0].end > spans[0].start && spans[1].start >= spans[0].start);
        assert!(spans.iter().all(|s| s.end <= recording.end));
        let launches = gpu(device).launches();
        assert!(launches >= 2, "{launches}");
    });
}

/// Threads share the stream; each one's chain stays in order.
#[test]
fn threads_share_a_device() {
    run(|device, _| {
        std::thread::scope(|scope| {
            for n in 1..5u32 {
                scope.spawn(move || {
                    for _ in 0..20 {
                        let x = Tensor::full(&[n as usize, 300], f64::from(n), DType::F32, device).unwrap();
                        let y = x.add(&x).unwrap().affine(0.5, 1.0).unwrap();
                        assert_eq!(y.to_vec::<f32>().unwrap(), vec![n as f32 + 1.0; n as usize * 300]);
                    }
                });
            }
        });
    });
}
