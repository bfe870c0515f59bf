//! What goes wrong is said, and nothing is lost.

mod common;

use std::fs::File;
use std::io::{self, Seek, SeekFrom, Write};
use std::path::Path;

use engine::{DType, Device, Tensor};
use train::checkpoint::{Checkpoints, Output, State, on_disk};
use train::config::OptimizerSection;
use train::optimizer::Optimizer;
use train::{Error, Options, run};

/// A disk with room for so many bytes of each file.
struct Full {
    file: File,
    left: usize,
}

impl Write for Full {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        if self.left == 0 {
            return Err(io::ErrorKind::StorageFull.into());
        }
        let n = self.file.write(&bytes[..bytes.len().min(self.left)])?;
        self.left -= n;
        Ok(n)
    }
    fn flush(&mut self) -> io::Result<()> {
        self.file.flush()
    }
}

impl Seek for Full {
    fn seek(&mut self, to: SeekFrom) -> io::Result<u64> {
        self.file.seek(to)
    }
}

impl Output for Full {
    fn sync(&mut self) -> io::Result<()> {
        self.file.sync_all()
    }
}

#[test]
fn a_full_disk_leaves_the_last_checkpoint() {
    let folder = tempfile::tempdir().unwrap();
    let device = Device::cpu();
    let value = Tensor::full(&[100, 100], 1.0, DType::F32, &device).unwrap().tracked();
    let optimizer = Optimizer::new(vec![("w".into(), value)], &OptimizerSection::default()).unwrap();
    let state = State { step: 1, rows: 4, rows_hash: 7, config: common::config(folder.path(), &[]) };
    let checkpoints = Checkpoints::new(folder.path().join("checkpoints"), 1);
    checkpoints.save(&optimizer, &state, &on_disk).unwrap();
    let values = &optimizer.parameters[0].value;
    values.detach().write(&Tensor::full(&[100, 100], 2.0, DType::F32, &device).unwrap()).unwrap();

    let later = State { step: 2, ..state.clone() };
    // In the header of the weights, in the weights, in the moments.
    for room in [10, 20_000, 60_000] {
        let create = |path: &Path| -> io::Result<Box<dyn Output>> {
            Ok(Box::new(Full { file: File::create_new(path)?, left: room }))
        };
        let said = checkpoints.save(&optimizer, &later, &create).unwrap_err().to_string();
        assert!(said.contains("no storage space") && said.contains("step-000002"), "{said}");
        assert_eq!(checkpoints.steps().unwrap(), [1]);
    }
    let names = std::fs::read_dir(folder.path().join("checkpoints")).unwrap().count();
    assert_eq!(names, 1, "a partial checkpoint was left behind");
    assert_eq!(checkpoints.load(&optimizer).unwrap(), Some(state));
    assert_eq!(values.to_vec::<f32>().unwrap()[0], 1.0);
    checkpoints.save(&optimizer, &later, &on_disk).unwrap();
    assert_eq!(checkpoints.steps().unwrap(), [2]);
}

#[test]
fn a_loss_that_is_not_finite_stops_with_the_rows() {
    // In the loss of the third step, or already in a report after the second.
    for (samples, earliest) in [("0", 3), ("1", 2)] {
        let folder = tempfile::tempdir().unwrap();
        common::data(folder.path());
        // Warm-up ends at a rate that no weights survive.
        let changes = [
            ("optimizer.lr", "1e36"),
            ("training.checkpoint_every", "1"),
            ("training.clip_norm", "0"),
            ("training.sample_count", samples),
        ];
        match run(&common::config(folder.path(), &changes), &Options::default()).unwrap_err() {
            Error::NotFinite { step, rows, last_good, .. } => {
                assert_eq!(step, earliest);
                assert!(rows.len() == 4 && rows[0].starts_with("row-"), "{rows:?}");
                assert!(last_good.contains(&format!("step-{:06}", step - 1)), "{last_good}");
            }
            other => panic!("{other}"),
        }
    }
}

#[test]
fn bad_rows_are_counted_and_do_not_stop_the_run() {
    let folder = tempfile::tempdir().unwrap();
    common::data(folder.path());
    std::fs::write(folder.path().join("2.png"), b"no image").unwrap();
    std::fs::remove_file(folder.path().join("3.png")).unwrap();
    let config = common::config(folder.path(), &[("training.epochs", "1")]);
    let summary = run(&config, &Options::default()).unwrap();
    assert_eq!((summary.rows, summary.bad.len()), (2, 2));
    let listed = std::fs::read_to_string(folder.path().join("run/bad-rows.txt")).unwrap();
    assert!(listed.contains("rows.jsonl:3:") && listed.contains("rows.jsonl:4:"), "{listed}");
}
