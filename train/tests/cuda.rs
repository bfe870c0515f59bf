//! Training and generating on a CUDA device, which the stand-in driver emulates: graphs of what comes again change no bit.

mod common;

use std::cell::RefCell;
use std::ops::ControlFlow;
use std::sync::Mutex;

use common::qlora::{Tiny, adapter};
use cuda_host::StandIn;
use engine::cuda::Counts;
use engine::{Cuda, Device, no_grad};
use model::generate::{Options as Generation, Prompt, generate};
use train::data::Cases;
use train::setup::Setup;
use train::{Options, run};

/// A device of its own; `None`, with a `SKIP:` line, where the stand-in was not built.
fn open(graphs: bool) -> Option<(&'static StandIn, Device)> {
    let stand_in = cuda_host::load()?;
    let device = Device::cuda(0).unwrap();
    gpu(&device).use_graphs(graphs);
    Some((stand_in, device))
}

fn gpu(device: &Device) -> &Cuda {
    device.backend().unwrap()
}

/// The stand-in counts for the whole process: one test at a time.
static TURN: Mutex<()> = Mutex::new(());

/// Sixty prompt tokens and so many more that the keys are shared among more blocks on the way.
#[test]
fn a_decoded_token_is_a_few_launches() {
    const NEW: usize = 20;
    let _turn = TURN.lock();
    let tiny = Tiny::text(&[("precision", "f32")]);
    let tell = |graphs| {
        let (stand_in, device) = open(graphs)?;
        let cases = Cases::read(&tiny.config.data).unwrap();
        let setup = Setup::new(&tiny.config, &cases, &tiny.path("none"), &device).unwrap();
        let decoder = setup.network.decoder();
        let ids: Vec<u32> = (0..118).map(|i| 20 + i * 7 % 200).collect();
        let embeds = no_grad(|| decoder.embed(&ids, 1)).unwrap();
        let prompt = Prompt { embeds, ids };
        let options = Generation { max_new_tokens: NEW, ..Generation::default() };
        let before = stand_in.launches();
        let (counts, launches) = (gpu(&device).graphs(), gpu(&device).launches());
        let prompts = [prompt];
        let (texts, timings) =
            generate(decoder, None, &prompts, &options, &mut |_, _| ControlFlow::Continue(())).unwrap();
        let calls = stand_in.launches() - before;
        assert_eq!(timings.decode_steps, NEW - 1);
        let kernels = gpu(&device).launches() - launches;
        let done = gpu(&device).graphs();
        Some((texts[0].ids.clone(), kernels, calls, counts, done))
    };
    let Some((want, kernels, calls, ..)) = tell(false) else { return };
    assert_eq!((calls.kernels, calls.graphs), (kernels, 0));
    let (ids, same_kernels, few, before, after) = tell(true).unwrap();
    assert_eq!(ids, want);
    println!(
        "{NEW} tokens: {kernels} launches without graphs; {same_kernels} kernels in {} launches of kernels and {} of graphs ({after:?})",
        few.kernels, few.graphs
    );
    let steps = (NEW - 1) as u64;
    assert_eq!(before, Counts::default());
    assert!(after.made > 0 && after.launched >= 2 * (steps - 4), "{after:?}");
    assert!(few.graphs <= 4 * steps, "{few:?}");
    // The prompt, the first time of each stretch, and what changes where the keys are shared anew.
    assert!(few.kernels < kernels / 4, "{few:?} of {kernels}");
}

/// Losses of each step, and the adapter at the end.
#[test]
fn a_run_with_graphs_is_the_run_without() {
    let _turn = TURN.lock();
    let curve = |graphs| {
        let (_, device) = open(graphs)?;
        let tiny = Tiny::new(&[]);
        let losses = RefCell::new(Vec::new());
        let seen = |record: &train::metrics::StepRecord| losses.borrow_mut().push(record.loss.to_bits());
        run(&tiny.config, &Options { device: Some(&device), on_step: Some(&seen), ..Options::default() })
            .unwrap();
        Some((losses.into_inner(), adapter(&tiny.config.out), gpu(&device).graphs()))
    };
    let Some((want, want_adapter, none)) = curve(false) else { return };
    let (losses, with_graphs, counts) = curve(true).unwrap();
    println!("{} steps: {counts:?}", losses.len());
    assert_eq!(none, Counts::default());
    assert!(counts.launched > 0, "{counts:?}");
    assert_eq!(losses, want);
    assert!(with_graphs == want_adapter, "the adapters differ");
}
