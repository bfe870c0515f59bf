//! Planted bugs (cuda/host/faults): each must be caught, under the schedules that can show it, with a message that says where.

use cuda_host::{Copies, Order, Schedule, parameter_sizes, sanitized};
use cudarc::driver::{CudaSlice, DriverError, PushKernelArg, sys};

use crate::session::{Session, again, run, run_all, shape, text};

const ILLEGAL: &str = "CUDA_ERROR_ILLEGAL_ADDRESS";
const MISALIGNED: &str = "CUDA_ERROR_MISALIGNED_ADDRESS";
const FAILED: &str = "CUDA_ERROR_LAUNCH_FAILED";

/// Launches a kernel that takes an output alone, and waits.
fn launch(
    session: &Session,
    name: &str,
    threads: u32,
    shared: u32,
    out: &CudaSlice<f32>,
) -> Result<(), DriverError> {
    let function = session.function(name);
    // SAFETY: the emulator checks; the argument is the kernel's.
    unsafe { session.stream.launch_builder(&function).arg(out).launch(shape(1, threads, shared)) }?;
    session.stream.synchronize()
}

/// What the pipeline kernels give for five tiles, and whether it is right.
fn pipeline_is_right(session: &Session, name: &str) -> bool {
    let tiles = 5_u32;
    let values: Vec<f32> = (0..tiles * 256).map(|i| (i * i % 97) as f32).collect();
    let input = session.upload(&values);
    let mut out = session.fresh(64);
    let function = session.function(name);
    // SAFETY: the input has 256 values for each tile.
    unsafe {
        let mut launch = session.stream.launch_builder(&function);
        launch.arg(&mut out).arg(&input).arg(&tiles).launch(shape(1, 64, 2048)).expect("a launch");
    }
    let expected: Vec<f32> =
        (0..64).map(|t| (0..5 * 4).map(|i| values[i / 4 * 256 + (63 - t) * 4 + i % 4]).sum()).collect();
    session.download(&out) == expected
}

#[test]
fn a_correct_pipeline_passes_under_every_schedule() {
    run_all(|session, schedule| {
        for seed in 0..4 {
            session.stand_in().set_schedule(Schedule { seed, ..schedule });
            assert!(pipeline_is_right(session, "pipeline_correct"), "{schedule:?} {seed}");
        }
    });
}

#[test]
fn a_missing_wait_shows_when_copies_are_late() {
    run_all(|session, schedule| {
        let right = pipeline_is_right(session, "pipeline_without_wait");
        assert_eq!(right, schedule.copies == Copies::Eager, "{schedule:?}");
    });
}

#[test]
fn a_missing_second_barrier_shows_when_one_warp_runs_ahead() {
    run_all(|session, schedule| {
        let right = pipeline_is_right(session, "pipeline_without_barrier");
        if schedule.order == Order::Greedy {
            assert!(!right, "{schedule:?}");
        }
    });
}

#[test]
fn a_missing_barrier_shows_under_every_schedule() {
    run_all(|session, schedule| {
        let out = session.fresh(128);
        launch(session, "exchange_without_barrier", 128, 512, &out).expect("no error, a wrong result");
        let right = session.download(&out).iter().enumerate().all(|(i, v)| *v == ((i + 1) % 128) as f32);
        assert!(!right, "{schedule:?}");
    });
}

#[test]
fn uninitialised_memory_holds_nans() {
    run(|session| {
        let fresh = session.fresh(64);
        assert!(session.download(&fresh).iter().all(|v| v.is_nan()));
        launch(session, "uninitialised_shared", 64, 256, &fresh).expect("no error, NaNs");
        assert!(session.download(&fresh).iter().all(|v| v.is_nan()));
        let zeros = session.stream.alloc_zeros::<f32>(64).expect("an allocation");
        assert!(session.download(&zeros).iter().all(|v| *v == 0.0));
    });
}

/// Reads 32 values at `offset` from an input of 64.
fn read(session: &Session, offset: i64) -> (Result<(), DriverError>, CudaSlice<f32>) {
    let input = session.upload(&[1.0_f32; 64]);
    let mut out = session.fresh(32);
    let function = session.function("read_global");
    // SAFETY: the emulator checks.
    let launched = unsafe {
        let mut launch = session.stream.launch_builder(&function);
        launch.arg(&mut out).arg(&input).arg(&offset).launch(shape(1, 32, 0))
    };
    (launched.and_then(|_| session.stream.synchronize()), out)
}

#[test]
fn reads_out_of_bounds() {
    if sanitized() {
        return;
    }
    run(|session| {
        let (result, out) = read(session, 32);
        result.expect("the last 32 values");
        assert_eq!(session.download(&out), [1.0; 32]);
        // Far out there is no memory; the message says how far.
        let (result, _out) = read(session, 1024);
        session.fails(
            result,
            ILLEGAL,
            &["kernel read_global, block (0, 0, 0), thread (", "past the end of allocation"],
        );
        let (result, _out) = read(session, -4096);
        session.fails(result, ILLEGAL, &["kernel read_global", "before allocation"]);
    });
}

#[test]
fn reads_just_past_the_end_give_nans() {
    if sanitized() {
        return;
    }
    run(|session| {
        // 60 values end 16 bytes before the block's alignment does.
        let input = session.upload(&[1.0_f32; 60]);
        let mut out = session.fresh(32);
        let function = session.function("read_global");
        // SAFETY: the emulator checks.
        unsafe {
            let mut launch = session.stream.launch_builder(&function);
            launch.arg(&mut out).arg(&input).arg(&32_i64).launch(shape(1, 32, 0)).expect("no error, NaNs");
        }
        assert!(session.download(&out)[28..].iter().all(|v| v.is_nan()));
    });
}

#[test]
fn writes_out_of_bounds() {
    if sanitized() {
        return;
    }
    run(|session| {
        let write = |offset: i64| {
            let mut out = session.fresh(60);
            let function = session.function("write_global");
            // SAFETY: the emulator checks.
            let launched = unsafe {
                let mut launch = session.stream.launch_builder(&function);
                launch.arg(&mut out).arg(&offset).launch(shape(1, 32, 0))
            };
            launched.and_then(|_| session.stream.synchronize())
        };
        write(28).expect("the last 32 values");
        session.fails(
            write(29),
            ILLEGAL,
            &["kernel write_global", "a write 0 byte(s) past the end", "(240 bytes)"],
        );
        session.fails(write(-1), ILLEGAL, &["kernel write_global", "a write 1 byte(s) before the start"]);
        session.fails(
            write(5000),
            ILLEGAL,
            &["kernel write_global", "thread (", "past the end of allocation"],
        );
    });
}

#[test]
fn writes_outside_of_shared_memory() {
    if sanitized() {
        return;
    }
    run(|session| {
        let mut out = session.fresh(32);
        let mut write = |offset: i64| {
            let function = session.function("write_shared");
            // SAFETY: the emulator checks.
            let launched = unsafe {
                let mut launch = session.stream.launch_builder(&function);
                launch.arg(&mut out).arg(&offset).launch(shape(1, 32, 256))
            };
            launched.and_then(|_| session.stream.synchronize())
        };
        write(32).expect("the last 32 values");
        session.fails(
            write(33),
            ILLEGAL,
            &["kernel write_shared, block (0, 0, 0)", "past the end of the block's 256 bytes"],
        );
        session.fails(write(-1), ILLEGAL, &["before the start of the block's shared memory"]);
        session.fails(write(10_000), ILLEGAL, &["of 256 bytes of shared memory"]);
    });
}

#[test]
fn asynchronous_copies_of_wrong_addresses() {
    run_all(|session, _| {
        let input = session.upload(&[2.0_f32; 256]);
        let mut out = session.fresh(32);
        let mut copy = |shared: u32, global: u32| {
            let function = session.function("copy_async_moved");
            // SAFETY: the emulator checks.
            let launched = unsafe {
                let mut launch = session.stream.launch_builder(&function);
                launch.arg(&mut out).arg(&input).arg(&shared).arg(&global).launch(shape(1, 32, 1024))
            };
            launched.and_then(|_| session.stream.synchronize())
        };
        copy(528, 512).expect_err("the second half has no room");
        session.says(&["cp_async16 at faults.cu:", "of 1024 bytes of shared memory"]);
        copy(0, 512).expect("both aligned and in bounds");
        session.fails(copy(8, 0), MISALIGNED, &["cp_async16 at faults.cu:", "is not 16-byte aligned"]);
        session.fails(
            copy(0, 4),
            MISALIGNED,
            &["cp_async16 at faults.cu:", "a global address that is not 16-byte aligned"],
        );
        session.fails(copy(0, 1024), ILLEGAL, &["cp_async16 at faults.cu:", "16 bytes of global memory"]);
    });
}

#[test]
fn matrix_loads() {
    run_all(|session, _| {
        let mut out = session.stream.alloc_zeros::<u32>(128).expect("an allocation");
        let function = session.function("ldmatrix_moved");
        let mut load = |offset: u32| {
            // SAFETY: the emulator checks.
            let launched = unsafe {
                let mut launch = session.stream.launch_builder(&function);
                launch.arg(&mut out).arg(&offset).launch(shape(1, 32, 512))
            };
            launched.and_then(|_| session.stream.synchronize())
        };
        session.fails(load(8), MISALIGNED, &["ldmatrix_x4 at faults.cu:", "is not 16-byte aligned"]);
        session.fails(load(32), ILLEGAL, &["ldmatrix_x4 at faults.cu:", "of 512 bytes of shared memory"]);
        load(0).expect("in place");
        // Lane l has of matrix i row l / 4, columns 2(l mod 4) and the next; value = 64 i + 8 row + column.
        let fragments = session.download(&out);
        for (at, pair) in fragments.iter().enumerate() {
            let (lane, matrix) = (at as u32 / 4, at as u32 % 4);
            let low = 64 * matrix + 8 * (lane / 4) + 2 * (lane % 4);
            assert_eq!(*pair, low | (low + 1) << 16, "lane {lane}, matrix {matrix}");
        }
    });
}

#[test]
fn divergence() {
    run_all(|session, schedule| {
        let out = session.fresh(64);
        let fails = |kernel: &str, texts: &[&str]| {
            let place = format!("kernel {kernel}, block (0, 0, 0), thread (");
            let result = launch(session, kernel, 64, 64, &out);
            session.fails(result, FAILED, &[&[place.as_str()], texts].concat());
        };
        fails("barrier_in_half_a_warp", &["block_sync under divergence", "has exited"]);
        fails("barriers_of_two_branches", &["block_sync under divergence", "at faults.cu:"]);
        fails("mismatched_warp_operations", &["other lanes of its warp wait in", "faults.cu:"]);
        fails("warp_operation_beside_barrier", &["of its warp wait", "block_sync"]);
        launch(session, "shuffle_from_exited_lanes", 32, 0, &out).expect("no error, NaNs");
        assert!(session.download(&out)[..16].iter().all(|v| v.is_nan()), "{schedule:?}");
        launch(session, "early_exit_of_whole_warps", 64, 0, &out).expect("whole warps may leave");
        assert_eq!(session.download(&out)[..32], [1.0; 32]);
    });
}

#[test]
#[ignore = "started by `threads_that_wait_for_ever` with a short limit"]
fn waiting_for_ever() {
    run(|session| {
        let out = session.fresh(64);
        let result = launch(session, "wait_for_ever", 64, 64, &out);
        let texts = ["kernel wait_for_ever, block (0, 0, 0), thread (", "no end after 1 s"];
        session.fails(result, "CUDA_ERROR_LAUNCH_TIMEOUT", &texts);
    });
}

#[test]
fn threads_that_wait_for_ever() {
    let output = again(
        &["--exact", "--ignored", "faults::waiting_for_ever"],
        &[("ROENTGEN_EMULATOR_LIMIT_S", "1".into())],
    );
    assert!(output.status.success(), "{}", text(&output));
}

#[test]
fn wrong_arguments() {
    run(|session| {
        let function = session.function("arguments");
        assert_eq!(parameter_sizes(&function), [8, 8, 4, 8]);
        let mut out = session.fresh(8);
        let builder = || session.stream.launch_builder(&function);
        // SAFETY: each launch is right, or refused by the stand-in before a thread runs.
        unsafe {
            builder()
                .arg(&mut out)
                .arg(&8_u64)
                .arg(&0.5_f32)
                .arg(&3.0_f64)
                .launch(shape(1, 32, 0))
                .expect("a launch");
            assert_eq!(session.download(&out), [3.0, 3.5, 4.0, 4.5, 5.0, 5.5, 6.0, 6.5]);

            // A number where a pointer belongs, as when an argument is left out.
            let launched =
                builder().arg(&8_u64).arg(&8_u64).arg(&0.5_f32).arg(&3.0_f64).launch(shape(1, 32, 0));
            let result = launched.and_then(|_| session.stream.synchronize());
            session.fails(result, ILLEGAL, &["argument 0 is a pointer outside every live allocation"]);

            // Too few: the list ends with a null pointer, where the driver would read on.
            let (pointer, count) = (0_u64, 8_u64);
            let mut few = [
                (&raw const pointer).cast_mut().cast(),
                (&raw const count).cast_mut().cast(),
                std::ptr::null_mut(),
            ];
            let result = launch_raw(session, function.cu_function(), few.as_mut_ptr(), std::ptr::null_mut());
            session.fails(
                result,
                "CUDA_ERROR_INVALID_VALUE",
                &["kernel arguments takes 4 arguments; argument 2 is missing"],
            );

            // A value of another type, which lies where the kernel's cannot.
            let halves = [0_u32; 4];
            let odd: *const u32 =
                halves.as_ptr().wrapping_add(usize::from((&raw const halves).addr().is_multiple_of(8)));
            let mut wrong = few;
            wrong[1] = odd.cast_mut().cast();
            let result =
                launch_raw(session, function.cu_function(), wrong.as_mut_ptr(), std::ptr::null_mut());
            session.fails(result, "CUDA_ERROR_INVALID_VALUE", &["argument 1 of 8 bytes is not aligned"]);

            // One buffer of the wrong size.
            let buffer = [0_u64; 4];
            let mut bytes = 24_usize;
            let mut extra: [*mut std::ffi::c_void; 5] = [
                1 as _,
                (&raw const buffer).cast_mut().cast(),
                2 as _,
                (&raw mut bytes).cast(),
                std::ptr::null_mut(),
            ];
            let result =
                launch_raw(session, function.cu_function(), std::ptr::null_mut(), extra.as_mut_ptr());
            session.fails(result, "CUDA_ERROR_INVALID_VALUE", &["takes 32 bytes of arguments, not 24"]);
        }
    });
}

/// One block of 32 threads.
///
/// # Safety
/// As `cuLaunchKernel`.
unsafe fn launch_raw(
    session: &Session,
    function: sys::CUfunction,
    parameters: *mut *mut std::ffi::c_void,
    extra: *mut *mut std::ffi::c_void,
) -> Result<(), DriverError> {
    // SAFETY: passed on.
    unsafe {
        sys::cuLaunchKernel(function, 1, 1, 1, 32, 1, 1, 0, session.stream.cu_stream(), parameters, extra)
    }
    .result()
}
