//! What long use of a GPU comes to: memory that does not grow, decode steps that need nothing new, and weights that are
//! never in memory twice.

use std::ops::ControlFlow;
use std::path::{Path, PathBuf};
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use engine::weights::Mapping;
use engine::{DType, Device, Progress, Tensor, Wgpu};
use model::bundle::Bundle;
use model::generate::{Options, generate};
use model::image::{DecodeOptions, decode_file};
use model::prompt::report::{Limit, message};
use roentgen_oracle::gpu;

/// One test at a time: they look at what the whole process holds.
static TURN: Mutex<()> = Mutex::new(());

fn demo() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("assets/demo")
}

fn bundle(device: &Device) -> Bundle {
    Bundle::open(&demo(), None, device).unwrap()
}

/// A report as `roentgen report` makes it, of so many tokens at most; `seen` is called at each piece of text.
fn report(bundle: &Bundle, image: &Path, tokens: usize, seen: &mut dyn FnMut()) -> String {
    let image = decode_file(image, &DecodeOptions::default()).unwrap();
    let tiles = bundle.processor.as_ref().unwrap().process(&image);
    let prompt = bundle.prompt(&[message(None, Limit::default())], &[tiles]).unwrap();
    let options = Options { max_new_tokens: tokens, stop_tokens: bundle.stop_tokens(), ..Options::default() };
    let mut on_text = |_, _: &str| {
        seen();
        ControlFlow::Continue(())
    };
    let (mut answers, _) =
        generate(bundle.decoder(), Some(&bundle.tokenizer), &[prompt], &options, &mut on_text).unwrap();
    answers.remove(0).text
}

/// A hundred jobs one after another: from the second round of images on no more is taken in buffers, and the answers stay
/// what they were.
#[test]
fn a_hundred_reports_take_no_more_memory_than_the_first_few() {
    let _turn = TURN.lock().unwrap();
    let Some(gpu) = gpu::open() else { return };
    let backend = gpu.backend::<Wgpu>().unwrap();
    let bundle = bundle(&gpu);
    let images = ["nih-00004621_000", "nih-00015599_000", "nih-00028558_000"]
        .map(|name| demo().join(format!("images/{name}.jpg")));
    let mut texts = Vec::new();
    let (mut most, mut tensors) = (0, 0);
    for job in 0..100 {
        // Answers of two, three and four tokens.
        let text = report(&bundle, &images[job % 3], 2 + job % 3, &mut || {});
        let taken = backend.buffer_bytes().iter().sum::<u64>();
        if job < 6 {
            most = most.max(taken);
            tensors = gpu.memory().total().current;
            texts.push(text);
            continue;
        }
        assert!(taken <= most, "{taken} bytes after job {job}, {most} after the first six");
        assert_eq!(text, texts[job % 3]);
    }
    println!(
        "{most} bytes of buffers; {} launches, {} of them on buffers that had not met before",
        backend.launches(),
        backend.recordings()
    );
    assert_eq!(gpu.memory().total().current, tensors, "bytes of tensors");
}

/// The buffers of one decode step are those of another: only parameters are new.
#[test]
fn a_decode_step_launches_what_an_earlier_one_recorded() {
    let _turn = TURN.lock().unwrap();
    let Some(gpu) = gpu::open() else { return };
    let backend = gpu.backend::<Wgpu>().unwrap();
    let bundle = bundle(&gpu);
    let image = demo().join("images/nih-00004621_000.jpg");
    let mut steps = Vec::new();
    let now = || [backend.recordings(), backend.launches(), backend.submissions()];
    report(&bundle, &image, 24, &mut || steps.push(now()));
    println!("recordings, launches and submissions after each piece of text: {steps:?}");
    let [early, last] = [steps[7], steps[steps.len() - 1]];
    assert!(steps.len() >= 16 && last[1] > early[1] + 100);
    assert_eq!(last[0], early[0]);
    // Value and id come down together: the device is waited for once.
    let tokens = steps[7..].windows(2).map(|s| s[1][2] - s[0][2]);
    assert!(tokens.clone().all(|submissions| submissions <= 1), "{:?}", tokens.collect::<Vec<_>>());
}

/// Bytes that this process holds beside mapped files.
fn held() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let of = |name: &str| {
        let line = status.lines().find(|line| line.starts_with(name))?;
        line.split_whitespace().nth(1)?.parse::<u64>().ok()
    };
    1024 * (of("RssAnon:").unwrap_or(0) + of("RssShmem:").unwrap_or(0))
}

/// A large weight, and many that are smaller than a part of an upload: what the host holds beside the device's own memory
/// is a few parts of 16 MiB.
#[test]
fn weights_on_their_way_to_the_device_are_not_held_twice() {
    const MIB: usize = 1 << 20;
    let _turn = TURN.lock().unwrap();
    let Some(gpu) = gpu::open() else { return };
    if held() == 0 {
        println!("SKIP: this system does not tell what a process holds");
        return;
    }
    let sizes: Vec<usize> = [96 * MIB].into_iter().chain([3 * MIB; 40]).collect();
    let total: usize = sizes.iter().sum();
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("weights");
    let bytes: Vec<u8> = (0..total / 4).flat_map(|i| (i as f32).to_le_bytes()).collect();
    std::fs::write(&path, &bytes).unwrap();
    drop(bytes);
    let file = Mapping::open(&path).unwrap();
    let (most, over) = (AtomicU64::new(0), AtomicBool::new(false));
    let before = held();
    let tensors: Vec<Tensor> = std::thread::scope(|scope| {
        scope.spawn(|| {
            while !over.load(Ordering::Relaxed) {
                most.fetch_max(held(), Ordering::Relaxed);
                std::thread::sleep(std::time::Duration::from_millis(1));
            }
        });
        let mut at = 0;
        let tensors = sizes.iter().map(|&size| {
            at += size;
            Tensor::from_mapped(&file, at - size..at, &[size / 4], DType::F32, &gpu).unwrap()
        });
        let tensors = tensors.collect();
        gpu.synchronize().unwrap();
        over.store(true, Ordering::Relaxed);
        tensors
    });
    // The memory of a software GPU is this process's.
    let beside = most.load(Ordering::Relaxed).saturating_sub(before + total as u64);
    println!("{total} bytes of weights, at most {beside} beside them");
    assert!(beside <= 64 * MIB as u64, "{beside}");
    let last = tensors.last().unwrap().to_vec::<f32>().unwrap();
    assert_eq!(last[last.len() - 1], (total / 4 - 1) as f32);
}

/// Who listens hears of every byte, and of the end.
#[test]
fn loading_tells_how_far_it_is() {
    let _turn = TURN.lock().unwrap();
    let Some(gpu) = gpu::open() else { return };
    let heard = std::sync::Arc::new(Mutex::new(Vec::new()));
    let told = heard.clone();
    gpu.listen(move |progress| told.lock().unwrap().push(progress));
    drop(bundle(&gpu));
    let heard = heard.lock().unwrap();
    let weights: Vec<(u64, u64)> = heard
        .iter()
        .filter_map(|p| if let Progress::Weights { done, total } = p { Some((*done, *total)) } else { None })
        .collect();
    assert!(weights.len() > 20 && weights.is_sorted());
    assert!(weights[..weights.len() - 1].iter().all(|(done, total)| done < total));
    let (done, total) = weights[weights.len() - 1];
    assert_eq!(done, total);
    assert_eq!(heard.last(), Some(&Progress::Weights { done, total }));
}
