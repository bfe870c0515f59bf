//! Temporary driver until the command line lands.
use std::path::PathBuf;
use train::{Options, TrainConfig};

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let mut args = std::env::args().skip(1);
    let path = PathBuf::from(args.next().ok_or("CONFIG [key=value …] [--resume]")?);
    let rest: Vec<String> = args.collect();
    let overrides: Vec<_> =
        rest.iter().filter_map(|a| a.split_once('=')).map(|(k, v)| (k.to_owned(), v.to_owned())).collect();
    let config = TrainConfig::from_file(&path, &overrides)?;
    let print = |s: &train::metrics::StepRecord| {
        if s.step % 10 == 1 {
            eprintln!(
                "{} loss {:.4} norm {:.3} lr {:.2e} {:.0} tok/s {} MB",
                s.step,
                s.loss,
                s.grad_norm,
                s.lr,
                s.tokens_per_second,
                s.peak_memory >> 20
            );
        }
    };
    let options =
        Options { resume: rest.iter().any(|a| a == "--resume"), on_step: Some(&print), ..Options::default() };
    let summary = train::run(&config, &options)?;
    println!("{summary:#?}");
    Ok(())
}
