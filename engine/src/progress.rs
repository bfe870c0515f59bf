//! How far a device is with what takes long before a model answers for the first time.

/// Steps of loading a model, for whoever shows them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Progress {
    /// Weights on their way from the file to the device.
    Weights {
        /// Bytes of the file that were read.
        done: u64,
        /// Bytes of all its tensors.
        total: u64,
    },
    /// Kernels that are being compiled.
    Kernels {
        /// So many are ready.
        done: u64,
        /// Of so many that this model needed the last time.
        total: u64,
    },
}

impl Progress {
    /// Whether nothing more will come of it.
    pub fn over(&self) -> bool {
        let (Self::Weights { done, total } | Self::Kernels { done, total }) = self;
        done >= total
    }
}
