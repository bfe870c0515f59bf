//! What a driver refuses becomes an error with the operation's name and shapes.

use super::*;
use crate::wgpu::adapters;

fn gpu() -> Option<Wgpu> {
    let all = adapters();
    let adapter = all.iter().find(|a| a.software).or(all.first());
    match Wgpu::open(adapter.map(|a| a.name.as_str())) {
        Ok(gpu) => Some(gpu),
        Err(e) => {
            println!("SKIP: {e}");
            None
        }
    }
}

/// A launch of an exponential of `x` to `y`, both `[4, 8]`.
fn exp<'a>(gpu: &'a Wgpu, x: &'a WgpuBuffer, y: &'a WgpuBuffer, layout: &'a Layout) -> Launch<'a> {
    let mut k = gpu.kernel("unary", "exp");
    k.constant("KIND", 0u32);
    k.input("x", &Input { layout, dtype: DType::F32, buffer: x }).unwrap();
    k.output("y", &Output { layout, dtype: DType::F32, buffer: y }).unwrap();
    k.word(32).unwrap();
    k
}

const TEXT: &str = "exp of x f32 [4, 8], y f32 [4, 8]";

#[test]
fn a_refused_binding_names_operation_and_shapes() {
    let Some(gpu) = gpu() else { return };
    let layout = Layout::contiguous(Dims::new(&[4, 8]).unwrap());
    let [x, y] = [(); 2].map(|()| gpu.temporary("exp", 128).unwrap());
    let mut k = exp(&gpu, &x, &y, &layout);
    k.bound[0].size = 1 << 40;
    let text = k.run_elements(32, 1).unwrap_err().to_string();
    assert!(text.contains(TEXT), "{text}");
    // Nothing came of it: the device goes on.
    exp(&gpu, &x, &y, &layout).run_elements(32, 1).unwrap();
    gpu.stream.lock().unwrap().finish().unwrap();
}

/// What is found only when a batch is checked names the batch; submitted alone, the launch.
#[test]
fn a_refused_launch_names_its_batch_and_alone_its_shapes() {
    for sync in [false, true] {
        let Some(mut gpu) = gpu() else { return };
        gpu.sync = sync;
        let layout = Layout::contiguous(Dims::new(&[4, 8]).unwrap());
        let x = gpu.temporary("exp", 128).unwrap();
        // Reads and writes one buffer, which no kernel may.
        let ran = exp(&gpu, &x, &x, &layout).run_elements(32, 1);
        let text = if sync {
            ran.unwrap_err().to_string()
        } else {
            ran.unwrap();
            gpu.stream.lock().unwrap().finish().unwrap_err().to_string()
        };
        assert!(text.contains("in a batch from exp to exp; ROENTGEN_WGPU_SYNC=1"), "{text}");
        assert_eq!(text.contains(TEXT), sync, "{text}");
    }
}

#[test]
fn a_refused_kernel_and_a_grid_that_is_too_large_name_operation_and_shapes() {
    let Some(gpu) = gpu() else { return };
    let layout = Layout::contiguous(Dims::new(&[4, 8]).unwrap());
    let [x, y, z] = [(); 3].map(|()| gpu.temporary("exp", 128).unwrap());
    let mut k = exp(&gpu, &x, &y, &layout);
    k.bind("no_such_tensor", &z, DType::F32, Access::Read, 0, 7).unwrap();
    let text = k.run_elements(32, 1).unwrap_err().to_string();
    assert!(text.contains("does not bind no_such_tensor") && text.contains(TEXT), "{text}");
    let text = exp(&gpu, &x, &y, &layout).run([1, MOST_GROUPS + 1, 1]).unwrap_err().to_string();
    assert!(text.contains("is too large") && text.contains(TEXT), "{text}");
}

/// A launch that comes again on the same buffers needs nothing new; buffers that go back to the device take along what
/// was kept of them.
#[test]
fn a_launch_is_recorded_once_for_the_same_buffers() {
    let Some(gpu) = gpu() else { return };
    let layout = Layout::contiguous(Dims::new(&[4, 8]).unwrap());
    let [x, y] = [(); 2].map(|()| gpu.temporary("exp", 128).unwrap());
    let launch = |y: &WgpuBuffer| exp(&gpu, &x, y, &layout).run_elements(32, 1).unwrap();
    (0..5).for_each(|_| launch(&y));
    assert_eq!(gpu.recordings(), 1);
    // The pool lends the same buffer again.
    let first = y.id();
    drop(y);
    let y = gpu.temporary("exp", 128).unwrap();
    assert_eq!(y.id(), first);
    launch(&y);
    assert_eq!(gpu.recordings(), 1);
    drop(y);
    gpu.pool.trim();
    let y = gpu.temporary("exp", 128).unwrap();
    assert_ne!(y.id(), first);
    launch(&y);
    assert_eq!(gpu.recordings(), 2);
    gpu.stream.lock().unwrap().finish().unwrap();
}

/// What a launch costs the thread that records it, the first time and on the same buffers again: run with
/// `--ignored --nocapture` on a quiet machine.
#[test]
#[ignore = "a measurement"]
fn what_recording_a_launch_costs() {
    let Some(gpu) = gpu() else { return };
    let layout = Layout::contiguous(Dims::new(&[4, 8]).unwrap());
    let [x, y] = [(); 2].map(|()| gpu.temporary("exp", 128).unwrap());
    // Nanoseconds that this thread was on a processor.
    let spent = || {
        let text = std::fs::read_to_string("/proc/thread-self/schedstat").unwrap_or_default();
        text.split(' ').next().and_then(|ns| ns.parse::<f64>().ok()).unwrap_or(f64::NAN)
    };
    for round in 0..4 {
        for (name, again) in [("first", false), ("again", true)] {
            const LAUNCHES: u32 = 10_000;
            gpu.stream.lock().unwrap().finish().unwrap();
            let started = spent();
            for _ in 0..LAUNCHES {
                if !again {
                    gpu.recorded.forget(vec![x.id()]);
                }
                exp(&gpu, &x, &y, &layout).run_elements(32, 1).unwrap();
            }
            gpu.stream.lock().unwrap().finish().unwrap();
            println!("round {round}, {name}: {:.2} µs", (spent() - started) / 1e3 / f64::from(LAUNCHES));
        }
    }
}
