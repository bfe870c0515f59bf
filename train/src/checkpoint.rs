//! Checkpoints: folders `step-000120` with weights, optimiser state and the place in the data, written beside
//! under another name and renamed when everything is on the disk. What has its final name is whole.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::{self, Seek, Write};
use std::path::{Path, PathBuf};

use engine::weights::{FileDType, SafetensorsWriter, TensorSpec, WeightError, Weights};
use engine::{DType, Tensor};
use serde::{Deserialize, Serialize};

use crate::config::TrainConfig;
use crate::error::{Error, Result};
use crate::optimizer::Optimizer;

const WEIGHTS: &str = "model.safetensors";
const OPTIMIZER: &str = "optimizer.safetensors";
const STATE: &str = "state.json";

/// Where a run stands. Random streams need no state of their own: each is drawn from the seed, the epoch and
/// the row.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct State {
    /// Steps done.
    pub step: usize,
    /// Training rows of the run.
    pub rows: usize,
    /// Fingerprint of their ids, in order.
    pub rows_hash: u64,
    /// The run's configuration.
    pub config: TrainConfig,
}

/// FNV-1a of the ids, each with a separator.
pub fn rows_hash<'a>(ids: impl Iterator<Item = &'a str>) -> u64 {
    ids.flat_map(|id| id.bytes().chain([0]))
        .fold(0xcbf2_9ce4_8422_2325, |hash, byte| (hash ^ u64::from(byte)).wrapping_mul(0x100_0000_01b3))
}

/// Where the bytes of a checkpoint go.
pub trait Output: Write + Seek {
    /// Returns when everything written is on the disk.
    fn sync(&mut self) -> io::Result<()>;
}

impl Output for File {
    fn sync(&mut self) -> io::Result<()> {
        self.sync_all()
    }
}

/// Opens the files of a checkpoint for writing. Tests put a full disk here.
pub type Create<'a> = &'a dyn Fn(&Path) -> io::Result<Box<dyn Output>>;

/// Files on the disk.
pub fn on_disk(path: &Path) -> io::Result<Box<dyn Output>> {
    Ok(Box::new(File::create_new(path)?))
}

/// The checkpoints of a run.
pub struct Checkpoints {
    folder: PathBuf,
    keep: usize,
}

impl Checkpoints {
    /// Those in `folder`, of which the newest `keep` stay.
    pub fn new(folder: PathBuf, keep: usize) -> Self {
        Self { folder, keep }
    }

    /// Steps of all whole checkpoints, oldest first.
    pub fn steps(&self) -> Result<Vec<usize>> {
        let mut steps = Vec::new();
        for name in self.names()? {
            if let Some(step) = name.strip_prefix("step-").and_then(|n| n.parse().ok()) {
                steps.push(step);
            }
        }
        steps.sort_unstable();
        Ok(steps)
    }

    fn names(&self) -> Result<Vec<String>> {
        let entries = match fs::read_dir(&self.folder) {
            Ok(entries) => entries,
            Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
            Err(e) => return Err(Error::io(&self.folder, "read", e)),
        };
        let mut names = Vec::new();
        for entry in entries {
            let entry = entry.map_err(|e| Error::io(&self.folder, "read", e))?;
            names.extend(entry.file_name().into_string().ok());
        }
        Ok(names)
    }

    /// Folder of the checkpoint of `step`.
    pub fn path(&self, step: usize) -> PathBuf {
        self.folder.join(format!("step-{step:06}"))
    }

    /// Removes what an interrupted write left behind.
    pub fn clean(&self) -> Result<()> {
        for name in self.names()?.iter().filter(|name| name.ends_with(".partial")) {
            let path = self.folder.join(name);
            fs::remove_dir_all(&path).map_err(|e| Error::io(&path, "remove", e))?;
        }
        Ok(())
    }

    /// Writes a checkpoint, then removes the oldest ones.
    ///
    /// # Errors
    /// If the disk is full or fails; earlier checkpoints are untouched then.
    pub fn save(&self, optimizer: &Optimizer, state: &State, create: Create<'_>) -> Result<PathBuf> {
        let target = self.path(state.step);
        if target.exists() {
            // A resumed run came here a second time: the bytes are the same.
            return Ok(target);
        }
        let partial = Partial(self.folder.join(format!(".step-{:06}.partial", state.step)));
        fs::create_dir_all(&partial.0).map_err(|e| Error::io(&partial.0, "create", e))?;

        let weights: Vec<_> = optimizer.parameters.iter().map(|p| (p.name.clone(), &p.value)).collect();
        write_tensors(&partial.0.join(WEIGHTS), &weights, create)?;
        write_tensors(&partial.0.join(OPTIMIZER), &optimizer.state(), create)?;
        let path = partial.0.join(STATE);
        let json = serde_json::to_vec_pretty(state)
            .map_err(|e| Error::checkpoint(&path, format!("cannot be written: {e}")))?;
        let mut file = create(&path).map_err(|e| Error::io(&path, "create", e))?;
        file.write_all(&json).and_then(|()| file.sync()).map_err(|e| Error::io(&path, "write", e))?;

        sync_folder(&partial.0)?;
        fs::rename(&partial.0, &target).map_err(|e| Error::io(&target, "replace", e))?;
        sync_folder(&self.folder)?;
        let steps = self.steps()?;
        for &step in &steps[..steps.len().saturating_sub(self.keep)] {
            let old = self.path(step);
            fs::remove_dir_all(&old).map_err(|e| Error::io(&old, "remove", e))?;
        }
        Ok(target)
    }

    /// Where the newest checkpoint stands; `None` if there is none.
    ///
    /// # Errors
    /// If it cannot be read.
    pub fn newest(&self) -> Result<Option<State>> {
        let Some(&step) = self.steps()?.last() else { return Ok(None) };
        let path = self.path(step).join(STATE);
        let json = fs::read(&path).map_err(|e| Error::io(&path, "read", e))?;
        serde_json::from_slice(&json).map(Some).map_err(|e| Error::checkpoint(&path, e.to_string()))
    }

    /// Reads the newest checkpoint into the optimiser's parameters; `None` if there is none.
    ///
    /// # Errors
    /// If it does not fit the model or cannot be read.
    pub fn load(&self, optimizer: &Optimizer) -> Result<Option<State>> {
        let Some(state) = self.newest()? else { return Ok(None) };
        let folder = self.path(state.step);
        let (theirs, ours) = (state.config.optimizer.kind(), optimizer.kind());
        if theirs != ours {
            let reason = format!(
                "holds the state of `optimizer.kind` = {:?}, the run's is {:?}; continue with the former, or start a \
                 new run",
                theirs.name(),
                ours.name()
            );
            return Err(Error::checkpoint(&folder, reason));
        }
        let weights = Weights::open(folder.join(WEIGHTS))?;
        for p in &optimizer.parameters {
            read_into(&weights, &p.name, &p.value)?;
        }
        let tensors = Weights::open(folder.join(OPTIMIZER))?;
        for (name, tensor) in optimizer.state() {
            read_into(&tensors, &name, tensor)?;
        }
        Ok(Some(state))
    }
}

/// A folder that goes away unless it was renamed.
struct Partial(PathBuf);

impl Drop for Partial {
    fn drop(&mut self) {
        // Nothing more to do if this fails too: it never has a checkpoint's name.
        let _ = fs::remove_dir_all(&self.0);
    }
}

fn write_tensors(path: &Path, tensors: &[(String, &Tensor)], create: Create<'_>) -> Result<()> {
    let shapes: Vec<Vec<usize>> = tensors.iter().map(|(_, t)| t.dims().to_vec()).collect();
    let specs: Vec<TensorSpec<'_>> = tensors
        .iter()
        .zip(&shapes)
        .map(|((name, tensor), shape)| TensorSpec { name, dtype: file_dtype(tensor), shape })
        .collect();
    let file = create(path).map_err(|e| Error::io(path, "create", e))?;
    let mut writer = SafetensorsWriter::new(file, path, &specs, &BTreeMap::new())?;
    for (name, tensor) in tensors {
        writer.write(name, &tensor.to_bytes()?)?;
    }
    writer.finish()?.sync().map_err(|e| Error::io(path, "write", e))
}

/// Codes of 8-bit states are bytes, everything else f32.
fn file_dtype(tensor: &Tensor) -> FileDType {
    if tensor.dtype() == DType::U8 { FileDType::U8 } else { FileDType::F32 }
}

fn read_into(weights: &Weights, name: &str, target: &Tensor) -> Result<()> {
    let entry = weights.require(name)?;
    let dtype = file_dtype(target);
    if entry.shape() != &target.dims()[..] || entry.dtype() != dtype {
        return Err(WeightError::Tensor {
            path: entry.path().to_owned(),
            tensor: name.to_owned(),
            reason: format!(
                "is {} {:?}, the run's is {dtype} {:?}: the checkpoint is of another model, or of another \
                 `optimizer.min_8bit_size`",
                entry.dtype(),
                entry.shape(),
                target.dims()
            ),
        }
        .into());
    }
    let values = Tensor::from_bytes(entry.bytes(), &target.dims(), target.dtype(), target.device())?;
    Ok(target.detach().write(&values)?)
}

#[cfg(unix)]
fn sync_folder(folder: &Path) -> Result<()> {
    // A rename lasts only once its folder is on the disk.
    File::open(folder).and_then(|f| f.sync_all()).map_err(|e| Error::io(folder, "flush", e))
}

#[cfg(not(unix))]
fn sync_folder(_: &Path) -> Result<()> {
    Ok(())
}
