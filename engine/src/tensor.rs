//! The tensor: a strided view of a storage, with its place on the tape.

use std::fmt;
use std::sync::Arc;

use half::{bf16, f16};

use crate::autograd::{History, next_id};
use crate::backend::{Device, Placed, Storage};
use crate::error::{Error, Result, rule};
use crate::layout::{Dims, Layout};
use crate::op::Spec;
use crate::rng::Rng;
use crate::weights::Mapping;
use crate::{Cpu, DType, Element};

/// An n-dimensional array on a device. Cheap to clone; views (reshape, permute, narrow, expand) share the
/// storage.
#[derive(Clone)]
pub struct Tensor {
    storage: Arc<Storage>,
    layout: Layout,
    dtype: DType,
    history: History,
}

impl Tensor {
    pub(crate) fn from_storage(storage: Arc<Storage>, layout: Layout, dtype: DType) -> Self {
        debug_assert!((layout.offset + layout.span()) * dtype.size() <= storage.bytes);
        Self { storage, layout, dtype, history: History::None }
    }

    pub(crate) fn storage(&self) -> &Storage {
        &self.storage
    }

    pub(crate) fn placed(&self) -> Placed<'_> {
        Placed { storage: &self.storage, layout: &self.layout, dtype: self.dtype }
    }

    pub(crate) fn history(&self) -> &History {
        &self.history
    }

    pub(crate) fn has_history(&self) -> bool {
        matches!(self.history, History::Made(..))
    }

    pub(crate) fn with_history(mut self, history: History) -> Self {
        self.history = history;
        self
    }

    /// The same storage under another view; untracked.
    pub(crate) fn view(&self, layout: Layout) -> Self {
        Self { storage: self.storage.clone(), layout, dtype: self.dtype, history: History::None }
    }

    /// The same elements in a storage of their own: same strides, gaps and place within a cache line.
    pub(crate) fn duplicate(&self) -> Result<Self> {
        let size = self.dtype.size();
        let offset = self.layout.offset % (LINE / size);
        let bytes = self.to_strided_bytes()?;
        let storage = self.device().allocate(offset * size + bytes.len(), false)?;
        storage.write(offset * size, &bytes)?;
        Ok(Self::from_storage(storage, Layout { offset, ..self.layout }, self.dtype))
    }

    // ---- creation

    /// A tensor of shape `dims` with the given elements in row-major order.
    pub fn from_slice<T: Element>(data: &[T], dims: &[usize], device: &Device) -> Result<Self> {
        let dims = Dims::new(dims)?;
        if dims.count() != data.len() {
            return Err(rule!("from_slice", "{} elements for shape {dims:?}", data.len()));
        }
        let bytes = bytemuck::cast_slice(data);
        let storage = device.allocate(bytes.len(), false)?;
        storage.write(0, bytes)?;
        Ok(Self::from_storage(storage, Layout::contiguous(dims), T::DTYPE))
    }

    /// A tensor of shape `dims` from the little-endian bytes of its elements.
    pub fn from_bytes(bytes: &[u8], dims: &[usize], dtype: DType, device: &Device) -> Result<Self> {
        let spec = Spec::new(dims, dtype)?;
        if spec.bytes() != bytes.len() {
            return Err(rule!("from_bytes", "{} bytes for {dtype} {dims:?}", bytes.len()));
        }
        let storage = device.allocate(bytes.len(), false)?;
        storage.write(0, bytes)?;
        Ok(Self::from_storage(storage, Layout::contiguous(spec.dims), dtype))
    }

    /// A tensor over bytes of a file in memory (mapped, or part of the program). On the CPU nothing is copied if the bytes are aligned for
    /// `dtype`; other devices upload.
    pub fn from_mapped(
        file: &Arc<Mapping>,
        range: std::ops::Range<usize>,
        dims: &[usize],
        dtype: DType,
        device: &Device,
    ) -> Result<Self> {
        let spec = Spec::new(dims, dtype)?;
        let bytes = file
            .bytes()
            .get(range.clone())
            .filter(|b| b.len() == spec.bytes())
            .ok_or_else(|| rule!("from_mapped", "range {range:?} does not hold {dtype} {dims:?}"))?;
        let aligned = bytes.as_ptr().align_offset(dtype.size()) == 0;
        if aligned && let Some(cpu) = device.backend::<Cpu>() {
            let storage = device.adopt(Box::new(cpu.map(file.clone(), range)), spec.bytes());
            return Ok(Self::from_storage(storage, Layout::contiguous(spec.dims), dtype));
        }
        Self::from_bytes(bytes, dims, dtype, device)
    }

    /// All zeros.
    pub fn zeros(dims: &[usize], dtype: DType, device: &Device) -> Result<Self> {
        let spec = Spec::new(dims, dtype)?;
        let storage = device.allocate(spec.bytes(), true)?;
        Ok(Self::from_storage(storage, Layout::contiguous(spec.dims), dtype))
    }

    /// All `value`, rounded to `dtype`.
    pub fn full(dims: &[usize], value: f64, dtype: DType, device: &Device) -> Result<Self> {
        let one = Self::from_f64(&[value], &[1; 0], dtype, device)?;
        one.expand(dims)?.contiguous()
    }

    /// From f64 values, each rounded to `dtype`.
    pub fn from_f64(data: &[f64], dims: &[usize], dtype: DType, device: &Device) -> Result<Self> {
        fn make<T: Element>(data: &[f64], dims: &[usize], device: &Device) -> Result<Tensor> {
            Tensor::from_slice(&data.iter().map(|&x| T::from_f64(x)).collect::<Vec<_>>(), dims, device)
        }
        match dtype {
            DType::F32 => make::<f32>(data, dims, device),
            DType::BF16 => make::<bf16>(data, dims, device),
            DType::F16 => make::<f16>(data, dims, device),
            DType::U8 => make::<u8>(data, dims, device),
            DType::U32 => make::<u32>(data, dims, device),
            DType::I32 => make::<i32>(data, dims, device),
        }
    }

    /// Normal deviates with mean 0 and the given standard deviation, f32 rounded to `dtype`.
    pub fn randn(dims: &[usize], std: f32, dtype: DType, rng: &mut Rng, device: &Device) -> Result<Self> {
        // A part at a time: an embedding in f32 would be twice its size in bf16.
        const PART: usize = 1 << 20;
        let spec = Spec::new(dims, dtype)?;
        let storage = device.allocate(spec.bytes(), false)?;
        let count = spec.dims.count();
        let mut values = vec![0.0; count.min(PART)];
        for at in (0..count).step_by(PART) {
            let values = &mut values[..PART.min(count - at)];
            rng.normals(values);
            for x in values.iter_mut() {
                *x *= std;
            }
            let part = Self::from_slice(values, &[values.len()], device)?.to_dtype(dtype)?;
            storage.write(at * dtype.size(), &part.to_bytes()?)?;
        }
        Ok(Self::from_storage(storage, Layout::contiguous(spec.dims), dtype))
    }

    // ---- what it is

    /// Sizes.
    pub fn dims(&self) -> Dims {
        self.layout.dims
    }

    /// Size of dimension `axis`, or an error that names the shape.
    pub fn dim(&self, axis: usize) -> Result<usize> {
        self.dims().get(axis).copied().ok_or_else(|| rule!("dim", "no dimension {axis} in {:?}", self.dims()))
    }

    /// Number of dimensions.
    pub fn rank(&self) -> usize {
        self.layout.dims.len()
    }

    /// Number of elements.
    pub fn count(&self) -> usize {
        self.layout.count()
    }

    /// Element type.
    pub fn dtype(&self) -> DType {
        self.dtype
    }

    /// Shape and element type.
    pub fn spec(&self) -> Spec {
        Spec { dims: self.layout.dims, dtype: self.dtype }
    }

    /// Sizes, strides and offset.
    pub fn layout(&self) -> &Layout {
        &self.layout
    }

    /// Where it lives.
    pub fn device(&self) -> &Device {
        &self.storage.device
    }

    /// Bytes of its elements (of a view: of the elements that it shows).
    pub fn bytes(&self) -> usize {
        self.spec().bytes()
    }

    // ---- tape

    /// A leaf that wants its gradient; shares the storage.
    #[must_use]
    pub fn tracked(&self) -> Self {
        self.detach().with_history(History::Leaf(next_id()))
    }

    /// The same values without history: no gradient flows through.
    #[must_use]
    pub fn detach(&self) -> Self {
        self.view(self.layout)
    }

    /// True if a backward pass would visit it.
    pub fn is_tracked(&self) -> bool {
        !matches!(self.history, History::None)
    }

    // ---- readback

    /// The elements in row-major order; `T` must be the tensor's own type.
    pub fn to_vec<T: Element>(&self) -> Result<Vec<T>> {
        if T::DTYPE != self.dtype {
            return Err(Error::DType { what: "to_vec", found: self.dtype, wanted: T::DTYPE });
        }
        let dense = self.detach().contiguous()?;
        let mut out = vec![T::zeroed(); dense.count()];
        dense.storage.read(dense.layout.offset * T::DTYPE.size(), bytemuck::cast_slice_mut(&mut out))?;
        Ok(out)
    }

    /// The elements as f64 in row-major order, whatever the type.
    pub fn to_f64_vec(&self) -> Result<Vec<f64>> {
        fn widen<T: Element>(t: &Tensor) -> Result<Vec<f64>> {
            Ok(t.to_vec::<T>()?.into_iter().map(Element::to_f64).collect())
        }
        match self.dtype {
            DType::F32 => widen::<f32>(self),
            DType::BF16 => widen::<bf16>(self),
            DType::F16 => widen::<f16>(self),
            DType::U8 => widen::<u8>(self),
            DType::U32 => widen::<u32>(self),
            DType::I32 => widen::<i32>(self),
        }
    }

    /// The elements as f32 in row-major order, whatever the type.
    pub fn to_f32_vec(&self) -> Result<Vec<f32>> {
        self.detach().to_dtype(DType::F32)?.to_vec()
    }

    /// The little-endian bytes of the elements in row-major order.
    pub fn to_bytes(&self) -> Result<Vec<u8>> {
        let dense = self.detach().contiguous()?;
        let mut out = vec![0; dense.bytes()];
        dense.storage.read(dense.layout.offset * self.dtype.size(), &mut out)?;
        Ok(out)
    }

    /// The bytes of several tensors of one device, each as [`Self::to_bytes`] gives them. A device that runs behind is waited
    /// for once, not once for each.
    ///
    /// # Errors
    /// If they are on several devices, or the device's.
    pub fn to_bytes_of(tensors: &[&Self]) -> Result<Vec<Vec<u8>>> {
        let Some(first) = tensors.first() else { return Ok(Vec::new()) };
        if let Some(other) = tensors.iter().find(|t| t.device() != first.device()) {
            return Err(rule!(
                "to_bytes_of",
                "{:?} is on another device than {:?}",
                other.dims(),
                first.dims()
            ));
        }
        let dense = tensors.iter().map(|t| t.detach().contiguous()).collect::<Result<Vec<_>>>()?;
        let mut out: Vec<Vec<u8>> = dense.iter().map(|t| vec![0; t.bytes()]).collect();
        let parts = dense.iter().zip(&mut out);
        let mut parts: Vec<_> = parts
            .map(|(t, out)| (&*t.storage, t.layout.offset * t.dtype.size(), out.as_mut_slice()))
            .collect();
        first.device().read_several(&mut parts)?;
        Ok(out)
    }

    /// The only element, as f64.
    pub fn item(&self) -> Result<f64> {
        if self.count() != 1 {
            return Err(rule!("item", "{:?} holds {} elements, not one", self.dims(), self.count()));
        }
        Ok(self.to_f64_vec()?[0])
    }

    /// The little-endian bytes of the storage from the first to the last element of this view, gaps included: element
    /// `(i, j, …)` lies `i·strides[0] + j·strides[1] + …` elements in. No kernel takes part, so that checks of kernels
    /// can rely on it.
    pub fn to_strided_bytes(&self) -> Result<Vec<u8>> {
        let size = self.dtype.size();
        let mut out = vec![0; self.layout.span() * size];
        self.storage.read(self.layout.offset * size, &mut out)?;
        Ok(out)
    }

    /// A copy on another device; itself if it is there already.
    pub fn to_device(&self, device: &Device) -> Result<Self> {
        if device == self.device() {
            return Ok(self.clone());
        }
        Self::from_bytes(&self.to_bytes()?, &self.dims(), self.dtype, device)
    }
}

/// Bytes of a cache line.
const LINE: usize = 64;

/// Elements shown at each end of a dimension.
const EDGE: usize = 3;

fn write_values(f: &mut fmt::Formatter<'_>, dims: &[usize], values: &[f64], integer: bool) -> fmt::Result {
    let Some((&n, rest)) = dims.split_first() else {
        let x = values[0];
        return if integer { write!(f, "{x}") } else { write!(f, "{x:.4}") };
    };
    let step: usize = rest.iter().product();
    f.write_str("[")?;
    let mut i = 0;
    while i < n {
        if i > 0 {
            f.write_str(", ")?;
        }
        if n > 2 * EDGE + 1 && i == EDGE {
            f.write_str("…, ")?;
            i = n - EDGE;
        }
        write_values(f, rest, &values[i * step..(i + 1) * step], integer)?;
        i += 1;
    }
    f.write_str("]")
}

/// `f32 [2, 3] on cpu`
impl fmt::Debug for Tensor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {:?} on {}", self.dtype, self.dims(), self.device())?;
        if self.is_tracked() {
            f.write_str(", tracked")?;
        }
        Ok(())
    }
}

/// As `Debug`, then the values, long dimensions abbreviated.
impl fmt::Display for Tensor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{self:?} ")?;
        match self.to_f64_vec() {
            Ok(values) if !values.is_empty() => {
                write_values(f, &self.dims(), &values, !self.dtype.is_float())
            }
            Ok(_) => f.write_str("[]"),
            Err(error) => write!(f, "<{error}>"),
        }
    }
}
