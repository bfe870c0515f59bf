//! Memory of the CPU backend: pooled, 64-byte aligned, or a part of a mapped file: a weight file, which is only read,
//! or a scratch file.

use std::alloc::{Layout as AllocLayout, alloc_zeroed, dealloc};
use std::collections::BTreeMap;
use std::marker::PhantomData;
use std::ops::Range;
use std::ptr::NonNull;
use std::sync::{Arc, Mutex};

use super::scratch_file::ScratchFile;
use crate::weights::Mapping;
use crate::{Cpu, Element, Error, Input, Output, Result};

/// Alignment of pooled buffers: a cache line, and the widest vector.
const ALIGN: usize = 64;

/// Blocks kept for reuse, by size. Blocks are zeroed when they come from the system, so their bytes are
/// always initialised.
#[derive(Default)]
pub(super) struct Pool {
    free: Mutex<BTreeMap<usize, Vec<Block>>>,
}

struct Block(NonNull<u8>);

// SAFETY: a block on the free list is owned by the list alone.
unsafe impl Send for Block {}

/// Rounds up to one of four sizes per power of two: at most a quarter is wasted, and shapes that differ a
/// little share blocks.
fn size_class(bytes: usize) -> Option<usize> {
    let bytes = bytes.max(ALIGN);
    let step = (bytes.checked_next_power_of_two()? / 8).max(ALIGN);
    bytes.checked_next_multiple_of(step).filter(|&n| n <= isize::MAX as usize - ALIGN)
}

fn block_layout(class: usize) -> AllocLayout {
    AllocLayout::from_size_align(class, ALIGN).expect("a size class is below isize::MAX")
}

impl Pool {
    pub(super) fn bytes(&self) -> usize {
        self.free.lock().unwrap().iter().map(|(class, blocks)| class * blocks.len()).sum()
    }

    pub(super) fn trim(&self) {
        for (class, blocks) in std::mem::take(&mut *self.free.lock().unwrap()) {
            for block in blocks {
                // SAFETY: allocated with this layout and owned by the list.
                unsafe { dealloc(block.0.as_ptr(), block_layout(class)) };
            }
        }
    }
}

impl Drop for Pool {
    fn drop(&mut self) {
        self.trim();
    }
}

enum Owner {
    Pool {
        pool: Arc<Pool>,
        class: usize,
    },
    /// Read-only; the file is held so that the pointer stays valid.
    Map {
        _file: Arc<Mapping>,
    },
    /// As pooled memory, but the file's.
    File {
        _file: Arc<ScratchFile>,
    },
}

/// Bytes of one storage. The access lock of the storage says who may read or write them.
pub struct CpuBuffer {
    ptr: NonNull<u8>,
    len: usize,
    owner: Owner,
}

// SAFETY: the pointer is owned (pool block) or kept alive (map); access is guarded as said above.
unsafe impl Send for CpuBuffer {}
// SAFETY: as above.
unsafe impl Sync for CpuBuffer {}

impl CpuBuffer {
    pub(super) fn pooled(pool: &Arc<Pool>, len: usize, zeroed: bool) -> Option<Self> {
        let class = size_class(len)?;
        let block = pool.free.lock().unwrap().get_mut(&class).and_then(Vec::pop);
        let ptr = if let Some(Block(ptr)) = block {
            if zeroed {
                // SAFETY: the block has `class >= len` bytes and is ours now.
                unsafe { ptr.as_ptr().write_bytes(0, len) };
            }
            ptr
        } else {
            // SAFETY: the layout has a size of at least ALIGN.
            NonNull::new(unsafe { alloc_zeroed(block_layout(class)) })?
        };
        Some(Self { ptr, len, owner: Owner::Pool { pool: pool.clone(), class } })
    }

    pub(super) fn mapped(file: Arc<Mapping>, range: Range<usize>) -> Self {
        let bytes = &file.bytes()[range];
        Self { ptr: NonNull::from(bytes).cast(), len: bytes.len(), owner: Owner::Map { _file: file } }
    }

    /// `range` is this buffer's alone and starts at a multiple of 64.
    pub(super) fn in_file(file: Arc<ScratchFile>, range: Range<usize>) -> Self {
        assert!(range.start <= range.end && range.end <= file.len() && range.start.is_multiple_of(ALIGN));
        // SAFETY: inside the map, by the assertion.
        let ptr = unsafe { file.as_mut_ptr().add(range.start) };
        let ptr = NonNull::new(ptr).expect("a map is not at address 0");
        Self { ptr, len: range.len(), owner: Owner::File { _file: file } }
    }

    pub(super) fn bytes(&self) -> &[u8] {
        // SAFETY: `len` initialised bytes; not written while a reader holds the storage's lock.
        unsafe { std::slice::from_raw_parts(self.ptr.as_ptr(), self.len) }
    }

    pub(super) fn write(&self, at: usize, data: &[u8]) -> Result<()> {
        if matches!(self.owner, Owner::Map { .. }) {
            return Err(Error::Device("cpu: a tensor over a mapped file is read-only; copy it first".into()));
        }
        assert!(at <= self.len && data.len() <= self.len - at);
        // SAFETY: in bounds; only called on a storage that no kernel uses yet.
        unsafe { self.ptr.as_ptr().add(at).copy_from_nonoverlapping(data.as_ptr(), data.len()) };
        Ok(())
    }
}

impl Drop for CpuBuffer {
    fn drop(&mut self) {
        if let Owner::Pool { pool, class } = &self.owner {
            pool.free.lock().unwrap().entry(*class).or_default().push(Block(self.ptr));
        }
    }
}

/// A buffer that one kernel uses while it runs.
pub(super) struct Temporary<T> {
    buffer: CpuBuffer,
    of: PhantomData<T>,
}

impl<T: Element> Temporary<T> {
    pub(super) fn new(buffer: CpuBuffer) -> Self {
        Self { buffer, of: PhantomData }
    }

    pub(super) fn as_mut(&mut self) -> &mut [T] {
        let len = self.buffer.len / size_of::<T>();
        // SAFETY: a pool block, initialised and aligned to 64 bytes, that nothing else refers to.
        unsafe { std::slice::from_raw_parts_mut(self.buffer.ptr.cast::<T>().as_ptr(), len) }
    }
}

impl<'a> Input<'a, Cpu> {
    /// The elements from the first to the farthest one of the view, to be indexed by its strides.
    pub fn slice<T: Element>(&self) -> &'a [T] {
        assert_eq!(T::DTYPE, self.dtype, "kernel and tensor disagree on the element type");
        let start = self.layout.offset * T::DTYPE.size();
        let len = self.layout.span() * T::DTYPE.size();
        bytemuck::cast_slice(&self.buffer.bytes()[if len == 0 { 0..0 } else { start..start + len }])
    }
}

impl Output<'_, Cpu> {
    /// The elements from the first to the farthest one of the view, to be indexed by its strides.
    ///
    /// # Errors
    /// If the target lies in a mapped file.
    pub fn slice_mut<T: Element>(&mut self) -> Result<&mut [T]> {
        assert_eq!(T::DTYPE, self.dtype, "kernel and tensor disagree on the element type");
        if matches!(self.buffer.owner, Owner::Map { .. }) {
            return Err(Error::Device("cpu: a tensor over a mapped file is read-only; copy it first".into()));
        }
        let (start, len) = (self.layout.offset, self.layout.span());
        if len == 0 {
            return Ok(&mut []);
        }
        assert!((start + len) * T::DTYPE.size() <= self.buffer.len);
        // SAFETY: in bounds and aligned (blocks and parts of scratch files are 64-byte aligned). `apply` hands a fresh storage or one
        // whose access lock it holds for writing, and `&mut self` keeps this the only slice.
        Ok(unsafe { std::slice::from_raw_parts_mut(self.buffer.ptr.cast::<T>().as_ptr().add(start), len) })
    }
}
