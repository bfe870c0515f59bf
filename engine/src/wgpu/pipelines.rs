//! Kernels that were built, in this process and, where the driver allows, in earlier ones.

use std::collections::HashMap;
use std::fs;
use std::path::PathBuf;
use std::sync::{Arc, Mutex};

use ::wgpu;

use super::adapter::block_on;
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

/// Kernels built so far.
pub(super) struct Pipelines {
    device: wgpu::Device,
    built: Mutex<HashMap<(&'static str, Variant), Arc<Built>>>,
    /// What the driver made of kernels, and the file that keeps it from one process to the next.
    disk: Option<(wgpu::PipelineCache, PathBuf)>,
}

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
        let Some((cache, path)) = &self.disk else { return };
        let (false, Some(data)) = (self.built.get_mut().is_ok_and(|b| b.is_empty()), cache.get_data()) else {
            return;
        };
        if fs::metadata(path).is_ok_and(|m| m.len() == data.len() as u64) {
            return;
        }
        let beside = path.with_extension(format!("{}.partial", std::process::id()));
        let written = path.parent().map_or(Ok(()), fs::create_dir_all);
        let written =
            written.and_then(|()| fs::write(&beside, data)).and_then(|()| fs::rename(&beside, path));
        if let Err(e) = written {
            let _ = fs::remove_file(&beside);
            tracing::debug!("{}: kernels are not kept: {e}", path.display());
        }
    }
}

impl Pipelines {
    pub(super) fn new(device: wgpu::Device, adapter: &wgpu::AdapterInfo) -> Self {
        let disk = disk(&device, adapter);
        Self { device, built: Mutex::default(), disk }
    }

    pub(super) fn get(&self, name: &'static str, variant: Variant) -> Result<Arc<Built>> {
        let mut built = self.built.lock().unwrap();
        let key = (name, variant);
        if let Some(kernel) = built.get(&key) {
            return Ok(kernel.clone());
        }
        let kernel = Arc::new(self.build(name, &key.1)?);
        built.insert(key, kernel.clone());
        Ok(kernel)
    }

    fn build(&self, name: &'static str, variant: &Variant) -> Result<Built> {
        let source = assemble(name, variant).map_err(|e| Error::Device(format!("wgpu: shader {e}")))?;
        if std::env::var(SHOW).is_ok_and(|show| show == name || show == "all") {
            eprintln!("// {name} {variant:?}\n{}", source.text);
        }
        let scope = self.device.push_error_scope(wgpu::ErrorFilter::Validation);
        let module = self.device.create_shader_module(wgpu::ShaderModuleDescriptor {
            label: Some(name),
            source: wgpu::ShaderSource::Wgsl(source.text.into()),
        });
        let entries: Vec<_> = (0..)
            .zip(&source.bindings)
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
        match block_on(scope.pop()) {
            None => Ok(Built { pipeline, layout, bindings: source.bindings }),
            Some(e) => Err(Error::Device(format!("wgpu: the driver refuses kernel {name} {variant:?}: {e}"))),
        }
    }
}
