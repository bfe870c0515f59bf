//! The stand-in driver: what it is, what it refuses, the order of streams.

use cudarc::driver::sys::{CUdevice_attribute as Attribute, CUfunction_attribute};
use cudarc::driver::{CudaContext, DriverError, LaunchConfig, PushKernelArg, result, sys};

use cuda_host::nvrtc;

use crate::session::{Session, again, failures_of, run, run_all, shape, text};

const INVALID: &str = "CUDA_ERROR_INVALID_VALUE";

fn fill(session: &Session, out: &mut cudarc::driver::CudaSlice<f32>, shift: f64) {
    let function = session.function("arguments");
    let count = out.len() as u64;
    // SAFETY: the kernel writes `count` values.
    unsafe {
        let mut launch = session.stream.launch_builder(&function);
        launch.arg(out).arg(&count).arg(&0.0_f32).arg(&shift).launch(shape(1, 32, 0)).expect("a launch");
    }
}

#[test]
fn says_that_it_is_an_emulation() {
    run(|session| {
        assert!(session.context.name().expect("a name").contains("CPU emulation"));
        assert_eq!(CudaContext::device_count().expect("a count"), 1);
        assert!(CudaContext::new(1).is_err());
        let (free, total) = session.context.mem_get_info().expect("sizes");
        let _block = session.fresh(1000);
        assert_eq!(session.context.mem_get_info().expect("sizes"), (free - 4000, total));
    });
}

/// What the environment says, or the default.
fn expected(name: &str, default: &str) -> String {
    std::env::var(name).unwrap_or_else(|_| default.into())
}

#[test]
fn attributes_follow_the_environment() {
    run(|session| {
        let get = |attribute| session.context.attribute(attribute).expect("an attribute");
        let (major, minor) = session.context.compute_capability().expect("a capability");
        assert_eq!(format!("{major}.{minor}"), expected("ROENTGEN_EMULATOR_CAPABILITY", "9.0"));
        let processors = get(Attribute::CU_DEVICE_ATTRIBUTE_MULTIPROCESSOR_COUNT);
        assert_eq!(processors.to_string(), expected("ROENTGEN_EMULATOR_MULTIPROCESSORS", "132"));
        let shared = get(Attribute::CU_DEVICE_ATTRIBUTE_MAX_SHARED_MEMORY_PER_BLOCK_OPTIN);
        assert_eq!(shared, if major == 8 { 163 * 1024 } else { 227 * 1024 });
        let mebibytes = session.context.total_mem().expect("a size") >> 20;
        assert_eq!(mebibytes.to_string(), expected("ROENTGEN_EMULATOR_MEMORY_MIB", "4096"));
    });
}

#[test]
fn is_another_device_when_told() {
    let output = again(
        &["--exact", "driver::attributes_follow_the_environment"],
        &[
            ("ROENTGEN_EMULATOR_CAPABILITY", "8.0".into()),
            ("ROENTGEN_EMULATOR_MULTIPROCESSORS", "108".into()),
            ("ROENTGEN_EMULATOR_MEMORY_MIB", "100".into()),
        ],
    );
    assert!(output.status.success(), "{}", text(&output));
}

#[test]
fn refuses_illegal_geometry() {
    run(|session| {
        let function = session.function("count_threads");
        let mut sum = session.stream.alloc_zeros::<f32>(1).expect("an allocation");
        let mut launch = |grid_dim, block_dim, shared_mem_bytes| {
            let config = LaunchConfig { grid_dim, block_dim, shared_mem_bytes };
            // SAFETY: the argument is the kernel's.
            unsafe { session.stream.launch_builder(&function).arg(&mut sum).launch(config) }
        };
        for (grid, block) in [((0, 1, 1), (32, 1, 1)), ((1, 1, 1), (32, 0, 1))] {
            session.fails(launch(grid, block, 0), INVALID, &["is zero"]);
        }
        session.fails(launch((1, 65_536, 1), (1, 1, 1), 0), INVALID, &["grid (1, 65536, 1)"]);
        session.fails(launch((1, 1, 1), (1025, 1, 1), 0), INVALID, &["over 1024 threads"]);
        session.fails(launch((1, 1, 1), (33, 32, 1), 0), INVALID, &["over 1024 threads"]);
        session.fails(launch((1, 1, 1), (1, 1, 65), 0), INVALID, &["over 64 in z"]);
        // 48 KiB until the function is told, then what the device has.
        session.fails(launch((1, 1, 1), (1, 1, 1), 49_153), INVALID, &["over its limit of 49152"]);
        let limit = CUfunction_attribute::CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES;
        session.fails(function.set_attribute(limit, 232_449), INVALID, &["this device has 232448"]);
        function.set_attribute(limit, 232_448).expect("what the device has");
        launch((1, 1, 1), (1, 1, 1), 232_448).expect("a launch");
        launch((3, 2, 2), (5, 3, 2), 0).expect("a launch");
        assert_eq!(session.download(&sum), [1.0 + 12.0 * 30.0]);
    });
}

#[test]
fn unknown_kernels_are_an_error() {
    run(|session| {
        let module = session.context.load_module(cudarc::nvrtc::Ptx::from_src("")).expect("a module");
        let error = module.load_function("no_such_kernel").expect_err("there is none");
        assert_eq!(error.0, sys::CUresult::CUDA_ERROR_NOT_FOUND);
    });
}

#[test]
fn leaks_are_reported_when_the_context_is_released() {
    if cuda_host::load().is_none() {
        return;
    }
    let failures = failures_of(|session| {
        session.fresh(25).leak();
    });
    let [failure] = &failures[..] else { panic!("{failures:#?}") };
    assert!(failure.contains("leak at the release of the context: 1 allocation(s), 100 bytes"), "{failure}");
}

#[test]
fn memory_is_freed_once() {
    run(|session| {
        // SAFETY: the second release is the bug.
        unsafe {
            let stream = session.stream.cu_stream();
            let block = result::malloc_async(stream, 100).expect("an allocation");
            result::free_async(block, stream).expect("freed");
            session.fails(
                result::free_async(block, stream),
                INVALID,
                &["allocation", "(100 bytes) is freed twice"],
            );
            session.fails(result::free_async(12_345, stream), INVALID, &["which is no allocation"]);
            let block = result::malloc_sync(100).expect("an allocation");
            result::free_sync(block).expect("freed");
            session.fails(result::free_sync(block), INVALID, &["is freed twice"]);
        }
    });
}

#[test]
fn use_after_free() {
    run(|session| {
        let function = session.function("count_threads");
        let stream = session.stream.cu_stream();
        // SAFETY: the launch is the bug; the stand-in refuses it.
        unsafe {
            let block = result::malloc_async(stream, 4).expect("an allocation");
            result::free_async(block, stream).expect("freed");
            session
                .stream
                .launch_builder(&function)
                .arg(&block)
                .launch(shape(1, 1, 0))
                .expect("an asynchronous launch");
        }
        session.fails(
            session.stream.synchronize(),
            "CUDA_ERROR_ILLEGAL_ADDRESS",
            &["argument 0", "which was freed"],
        );
    });
}

#[test]
fn a_failed_kernel_breaks_the_context() {
    run(|session| {
        let function = session.function("count_threads");
        // SAFETY: the argument is the bug; the stand-in refuses it.
        unsafe { session.stream.launch_builder(&function).arg(&8_u64).launch(shape(1, 1, 0)) }
            .expect("an asynchronous launch");
        assert!(session.stream.synchronize().is_err());
        assert!(
            session.stream.alloc_zeros::<f32>(1).is_err(),
            "every call fails until the context is made anew"
        );
        session.says(&["argument 0"]);
    });
}

#[test]
fn copies_stay_in_bounds() {
    run(|session| {
        let block = session.fresh(16);
        let (address, stream) =
            (cudarc::driver::DevicePtr::device_ptr(&block, &session.stream).0, session.stream.cu_stream());
        let host = [0.0_f32; 17];
        // SAFETY: the copy is the bug; the stand-in refuses it.
        let result = unsafe { result::memcpy_htod_async(address, &host, stream) };
        session.fails(
            result,
            INVALID,
            &["cuMemcpyHtoDAsync: 68 bytes", "are not all in one live allocation"],
        );
    });
}

#[test]
fn memory_runs_out() {
    run(|session| {
        let bytes = session.context.total_mem().expect("a size");
        // SAFETY: nothing is allocated.
        let error = unsafe { session.stream.alloc::<u8>(bytes + 1) }.expect_err("more than there is");
        assert_eq!(error.0, sys::CUresult::CUDA_ERROR_OUT_OF_MEMORY);
    });
}

#[test]
fn blocks_run_whatever_the_schedule() {
    run_all(|session, schedule| {
        let function = session.function("count_threads");
        let mut sum = session.stream.alloc_zeros::<f32>(1).expect("an allocation");
        let config = LaunchConfig { grid_dim: (7, 3, 2), block_dim: (33, 2, 1), shared_mem_bytes: 0 };
        // SAFETY: the argument is the kernel's.
        unsafe { session.stream.launch_builder(&function).arg(&mut sum).launch(config) }.expect("a launch");
        assert_eq!(session.download(&sum), [42.0 * 66.0], "{schedule:?}");
    });
}

#[test]
fn lazy_streams_show_missing_synchronisation() {
    run(|session| {
        session.stand_in().set_lazy_streams(true);
        let mut out = session.stream.alloc_zeros::<f32>(8).expect("an allocation");
        // SAFETY: the memory is written before it is read.
        let mut pinned = unsafe { session.context.alloc_pinned::<f32>(8) }.expect("pinned memory");
        pinned.as_mut_slice().expect("at rest").fill(-1.0);
        let there = pinned.as_ptr().expect("at rest");
        fill(session, &mut out, 7.0);
        // SAFETY: the pinned memory outlives the copy, and is read while nothing runs: with lazy streams work waits for calls.
        unsafe {
            let address = cudarc::driver::DevicePtr::device_ptr(&out, &session.stream).0;
            let target = std::slice::from_raw_parts_mut(there.cast_mut(), 8);
            result::memcpy_dtoh_async(target, address, session.stream.cu_stream()).expect("a copy");
            assert_eq!(*there, -1.0, "the copy has not run");
            session.stream.synchronize().expect("no failure");
            assert_eq!(std::slice::from_raw_parts(there, 8), [7.0; 8]);
        }
    });
}

#[test]
fn streams_wait_for_events() {
    for lazy in [false, true] {
        run(|session| {
            session.stand_in().set_lazy_streams(lazy);
            let other = session.context.new_stream().expect("a stream");
            let mut out = session.stream.alloc_zeros::<f32>(8).expect("an allocation");
            fill(session, &mut out, 3.0);
            // cudarc records and waits for events of its own here.
            let copy = other.clone_dtod(&out).expect("a copy");
            assert_eq!(other.clone_dtoh(&copy).expect("a download"), [3.0; 8]);
            let flags = Some(sys::CUevent_flags::CU_EVENT_DEFAULT);
            let start = session.stream.record_event(flags).expect("an event");
            fill(session, &mut out, 4.0);
            let end = session.stream.record_event(flags).expect("an event");
            assert!(start.elapsed_ms(&end).expect("a time") >= 0.0);
        });
    }
}

/// The stand-in's streams run as late as they may: who forgets to wait for another stream reads what was there before.
#[test]
fn a_missing_wait_between_streams_shows() {
    run(|session| {
        session.stand_in().set_lazy_streams(true);
        // SAFETY: waits are this test's subject.
        unsafe { session.context.disable_event_tracking() };
        for waits in [true, false] {
            let copies = session.context.new_stream().expect("a stream");
            let mut weight = session.stream.alloc_zeros::<f32>(8).expect("an allocation");
            let mut out = session.stream.alloc_zeros::<f32>(8).expect("an allocation");
            session.stream.synchronize().expect("no failure");
            // An upload in one stream, its use in another.
            copies.memcpy_htod(&[2.0_f32; 8], &mut weight).expect("an upload");
            if waits {
                let there = copies.record_event(None).expect("an event");
                session.stream.wait(&there).expect("a wait");
            }
            session.stream.memcpy_dtod(&weight, &mut out).expect("a copy");
            assert_eq!(session.download(&out), if waits { [2.0; 8] } else { [0.0; 8] });
            copies.synchronize().expect("no failure");
        }
    });
}

/// Nothing of it runs, but it must be what the device would take.
#[test]
fn machine_code_must_be_a_devices_and_have_the_kernel() {
    if nvrtc::load().is_none() {
        return;
    }
    run(|session| {
        let load = |image: Vec<u8>| session.context.load_module(cudarc::nvrtc::Ptx::from_binary(image));
        let image = nvrtc::compile("gelu.cu", "sm_90a").expect("gelu.cu compiles");
        let module = load(image.cubin).expect("a module");
        module.load_function("gelu_f32").expect("a kernel of it");
        let error = module.load_function("affine_f32").expect_err("one of another source");
        assert_eq!(error.0, sys::CUresult::CUDA_ERROR_NOT_FOUND);
        let program = std::fs::read(std::env::current_exe().expect("a path")).expect("this program");
        session.fails(load(program), "CUDA_ERROR_INVALID_IMAGE", &["not for a CUDA device"]);
    });
}

#[test]
fn errors_have_names() {
    let error = DriverError(sys::CUresult::CUDA_ERROR_OUT_OF_MEMORY);
    if cuda_host::load().is_some() {
        assert_eq!(error.error_string().expect("a text").to_string_lossy(), "out of memory");
    }
}
