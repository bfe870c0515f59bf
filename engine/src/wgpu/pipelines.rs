//! Kernels that were built, in this process and, where the driver allows, in earlier ones.

use std::collections::{BTreeSet, HashMap};
use std::fs;
use std::path::PathBuf;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, mpsc};
use std::thread;
use std::time::Instant;

use ::wgpu;

use super::known::{self, Named};
use super::problems::watched;
use super::source::{Access, Binding, Variant, assemble};
use crate::{Error, Result};

/// Prints the assembled source of the kernel of this name, or of `all`, when it is built.
const SHOW: &str = "ROENTGEN_WGPU_SHOW";

/// A built kernel.
pub(super) struct Built {
    pub(super) pipeline: wgpu::ComputePipeline,
    pub(super) layout: wgpu::BindGroupLayout,
    pub(super) bindings: Vec<Binding>,
}

/// Most threads that compile at once.
const THREADS: usize = 16;

/// A kernel, and whether a launch has wanted it.
struct Kept {
    kernel: Arc<Built>,
    wanted: bool,
}

/// Kernels built so far.
pub(super) struct Pipelines {
    device: wgpu::Device,
    adapter: wgpu::AdapterInfo,
    built: Mutex<HashMap<Named, Kept>>,
    /// What the driver made of kernels, and the file that keeps it from one process to the next.
    disk: Option<(wgpu::PipelineCache, PathBuf)>,
    /// Files with the kernels of the models that were loaded, and what they held.
    known: Mutex<Vec<(PathBuf, Known)>>,
}

/// Kernels, each with the number of processes since it was needed.
type Known = Vec<(u32, Named)>;

/// `$XDG_CACHE_HOME/roentgen`, or `~/.cache/roentgen`.
fn folder() -> Option<PathBuf> {
    let set = |name: &str| std::env::var_os(name).filter(|v| !v.is_empty()).map(PathBuf::from);
    Some(set("XDG_CACHE_HOME").or_else(|| Some(set("HOME")?.join(".cache")))?.join("roentgen"))
}

/// The driver's cache for this adapter, with what an earlier process left.
fn disk(device: &wgpu::Device, adapter: &wgpu::AdapterInfo) -> Option<(wgpu::PipelineCache, PathBuf)> {
    if !device.features().contains(wgpu::Features::PIPELINE_CACHE) {
        return None;
    }
    let path = folder()?.join(wgpu::util::pipeline_cache_key(adapter)?);
    let data = fs::read(&path).ok();
    let descriptor =
        wgpu::PipelineCacheDescriptor { label: Some("roentgen"), data: data.as_deref(), fallback: true };
    // SAFETY: the bytes are what `get_data` of such a cache gave: nobody else writes this file, and it is replaced
    // whole. wgpu checks its header against the driver, and starts with an empty cache where it does not fit.
    let cache = unsafe { device.create_pipeline_cache(&descriptor) };
    Some((cache, path))
}

impl Drop for Pipelines {
    /// Keeps what was built. A cache that cannot be written only makes the next start slower.
    fn drop(&mut self) {
        let Ok(built) = self.built.get_mut() else { return };
        let wanted: BTreeSet<Named> =
            built.drain().filter(|(_, kept)| kept.wanted).map(|(named, _)| named).collect();
        if wanted.is_empty() {
            return;
        }
        let told = |path: &PathBuf, written: std::io::Result<()>| {
            if let Err(e) = written {
                tracing::debug!("{}: kernels are not kept: {e}", path.display());
            }
        };
        for (path, before) in self.known.get_mut().map(std::mem::take).unwrap_or_default() {
            told(&path, known::write(&path, &known::after(before, &wanted)));
        }
        let Some((cache, path)) = &self.disk else { return };
        let Some(data) = cache.get_data() else { return };
        if fs::metadata(path).is_ok_and(|m| m.len() == data.len() as u64) {
            return;
        }
        told(path, known::replace(path, &data));
    }
}

impl Pipelines {
    pub(super) fn new(device: wgpu::Device, adapter: wgpu::AdapterInfo) -> Self {
        let disk = disk(&device, &adapter);
        Self { device, adapter, built: Mutex::default(), disk, known: Mutex::default() }
    }

    /// The kernel, for a launch.
    pub(super) fn get(&self, name: &'static str, variant: Variant) -> Result<Arc<Built>> {
        let named = (name, variant);
        if let Some(kept) = self.built.lock().unwrap().get_mut(&named) {
            kept.wanted = true;
            return Ok(kept.kernel.clone());
        }
        let kernel = Arc::new(self.build(name, &named.1)?);
        self.built.lock().unwrap().insert(named, Kept { kernel: kernel.clone(), wanted: true });
        Ok(kernel)
    }

    /// Makes the kernels that the model `work` needed in earlier processes, several at once; `told` hears how many are
    /// ready, of how many. Others are made when they are launched, as ever.
    pub(super) fn prepare(&self, work: &str, told: &mut dyn FnMut(usize, usize)) {
        let Some(folder) = folder() else { return };
        let path = known::path(&folder, &self.adapter, work);
        let known = known::read(&path);
        let missing: Vec<Named> = {
            let built = self.built.lock().unwrap();
            known
                .iter()
                .map(|(_, named)| named)
                .filter(|named| !built.contains_key(*named))
                .cloned()
                .collect()
        };
        let mut files = self.known.lock().unwrap();
        if files.iter().all(|(other, _)| *other != path) {
            files.push((path, known));
        }
        drop(files);
        if missing.is_empty() {
            return;
        }
        let started = Instant::now();
        let threads = thread::available_parallelism().map_or(1, usize::from).min(THREADS).min(missing.len());
        let next = AtomicUsize::new(0);
        let (ready, heard) = mpsc::channel();
        thread::scope(|scope| {
            for _ in 0..threads {
                let (ready, next, missing) = (ready.clone(), &next, &missing);
                scope.spawn(move || {
                    while let Some(named) = missing.get(next.fetch_add(1, Ordering::Relaxed)) {
                        match self.build(named.0, &named.1) {
                            Ok(kernel) => {
                                let kept = Kept { kernel: Arc::new(kernel), wanted: false };
                                self.built.lock().unwrap().entry(named.clone()).or_insert(kept);
                            }
                            // If a launch wants it, that has the error.
                            Err(e) => tracing::debug!("{e}"),
                        }
                        let _ = ready.send(());
                    }
                });
            }
            drop(ready);
            heard.iter().enumerate().for_each(|(n, ())| told(n + 1, missing.len()));
        });
        tracing::info!(
            "{} kernels of the last run made ready in {:.3} s by {threads} threads",
            missing.len(),
            started.elapsed().as_secs_f64()
        );
    }

    fn build(&self, name: &'static str, variant: &Variant) -> Result<Built> {
        let source = assemble(name, variant).map_err(|e| Error::Device(format!("wgpu: shader {e}")))?;
        if std::env::var(SHOW).is_ok_and(|show| show == name || show == "all") {
            eprintln!("// {name} {variant:?}\n{}", source.text);
        }
        let ((pipeline, layout), refused) =
            watched(&self.device, || self.compile(name, source.text, &source.bindings));
        match refused {
            None => Ok(Built { pipeline, layout, bindings: source.bindings }),
            Some(e) => Err(Error::Device(format!("wgpu: the driver refuses kernel {name} {variant:?}: {e}"))),
        }
    }

    /// The kernel with this text; what is wrong with it the device reports.
    fn compile(
        &self,
        name: &'static str,
        text: String,
        bindings: &[Binding],
    ) -> (wgpu::ComputePipeline, wgpu::BindGroupLayout) {
        let module = self.device.create_shader_module(wgpu::ShaderModuleDescriptor {
            label: Some(name),
            source: wgpu::ShaderSource::Wgsl(text.into()),
        });
        let entries: Vec<_> = (0..)
            .zip(bindings)
            .map(|(binding, kind)| wgpu::BindGroupLayoutEntry {
                binding,
                visibility: wgpu::ShaderStages::COMPUTE,
                ty: wgpu::BindingType::Buffer {
                    ty: match kind {
                        Binding::Params | Binding::Tensor { access: Access::Uniform, .. } => {
                            wgpu::BufferBindingType::Uniform
                        }
                        Binding::Tensor { access, .. } => {
                            wgpu::BufferBindingType::Storage { read_only: *access == Access::Read }
                        }
                        Binding::Fault => wgpu::BufferBindingType::Storage { read_only: false },
                    },
                    has_dynamic_offset: *kind == Binding::Params,
                    min_binding_size: None,
                },
                count: None,
            })
            .collect();
        let layout = self.device.create_bind_group_layout(&wgpu::BindGroupLayoutDescriptor {
            label: Some(name),
            entries: &entries,
        });
        let whole = self.device.create_pipeline_layout(&wgpu::PipelineLayoutDescriptor {
            label: Some(name),
            bind_group_layouts: &[Some(&layout)],
            immediate_size: 0,
        });
        let pipeline = self.device.create_compute_pipeline(&wgpu::ComputePipelineDescriptor {
            label: Some(name),
            layout: Some(&whole),
            module: &module,
            entry_point: Some("main"),
            compilation_options: wgpu::PipelineCompilationOptions {
                // Kernels read no workgroup memory that they have not written.
                zero_initialize_workgroup_memory: false,
                ..Default::default()
            },
            cache: self.disk.as_ref().map(|(cache, _)| cache),
        });
        (pipeline, layout)
    }
}
