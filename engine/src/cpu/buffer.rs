//! Memory of the CPU backend: pooled, 64-byte aligned, or a part of a mapped file: a weight file, which is only read,
//! or a scratch file.

use std::alloc::{Layout as AllocLayout, alloc_zeroed, dealloc};
use std::collections::BTreeMap;
use std::marker::PhantomData;
use std::ops::Range;
use std::ptr::NonNull;
use std::sync::{Arc, Mutex};

use memmap2::MmapMut;

use super::scratch_file::ScratchFile;
use super::slab::{Piece, Slabs};
use crate::weights::Mapping;
use crate::{Cpu, Element, Error, Input, Output, Result};

/// Alignment of pooled buffers: a cache line, and the widest vector.
const ALIGN: usize = 64;
/// Blocks of at least this size are maps of their own, in huge pages where the system has them: streaming a weight
/// then crosses one page border in 2 MiB instead of 512. Given back, they are the system's at once.
const MAPPED: usize = 2 << 20;
/// Blocks of at least this size and less than that share such maps, so that they, too, lie in huge pages, and that no
/// allocator's heap stays as large as it ever was.
const SHARED: usize = 32 << 10;

/// Memory of one size class, all of it initialised: zeroed when it came from the system.
enum Block {
    Heap { ptr: NonNull<u8>, class: usize },
    Piece(Piece),
    Map(MmapMut),
}

// SAFETY: a block owns its memory.
unsafe impl Send for Block {}
// SAFETY: a shared block gives no access to its bytes; see `CpuBuffer` for who reads and writes them.
unsafe impl Sync for Block {}

impl Block {
    fn new(class: usize, slabs: &Arc<Slabs>) -> Option<Self> {
        if (SHARED..MAPPED).contains(&class) {
            return Piece::new(slabs, class).map(Self::Piece);
        }
        if class >= MAPPED {
            let map = MmapMut::map_anon(class).ok()?;
            // A wish: without huge pages the block is as good, only slower.
            #[cfg(target_os = "linux")]
            let _ = map.advise(memmap2::Advice::HugePage);
            return Some(Self::Map(map));
        }
        // SAFETY: the layout has a size of at least ALIGN.
        let ptr = NonNull::new(unsafe { alloc_zeroed(heap_layout(class)) })?;
        Some(Self::Heap { ptr, class })
    }

    fn class(&self) -> usize {
        match self {
            Self::Heap { class, .. } => *class,
            Self::Piece(piece) => piece.len(),
            Self::Map(map) => map.len(),
        }
    }

    fn ptr(&mut self) -> NonNull<u8> {
        match self {
            Self::Heap { ptr, .. } => *ptr,
            Self::Piece(piece) => piece.ptr(),
            Self::Map(map) => NonNull::new(map.as_mut_ptr()).expect("a map is not at address 0"),
        }
    }
}

impl Drop for Block {
    fn drop(&mut self) {
        if let Self::Heap { ptr, class } = self {
            // SAFETY: allocated with this layout and owned by the block.
            unsafe { dealloc(ptr.as_ptr(), heap_layout(*class)) };
        }
    }
}

fn heap_layout(class: usize) -> AllocLayout {
    AllocLayout::from_size_align(class, ALIGN).expect("a size class is below isize::MAX")
}

/// Rounds up to one of sixteen sizes per power of two: at most a sixteenth is wasted, and shapes that differ a
/// little share blocks.
fn size_class(bytes: usize) -> Option<usize> {
    let bytes = bytes.max(ALIGN);
    let step = (bytes.checked_next_power_of_two()? / 32).max(ALIGN);
    bytes.checked_next_multiple_of(step).filter(|&n| n <= isize::MAX as usize - ALIGN)
}

/// Blocks kept for reuse. Live and idle blocks together never hold more than live blocks alone once did, so that reuse
/// costs no memory: a new block beyond that takes the place of those that have been idle longest.
#[derive(Default)]
pub(super) struct Pool {
    idle: Mutex<Idle>,
    slabs: Arc<Slabs>,
}

#[derive(Default)]
struct Idle {
    /// By class; in each class the one that was freed last is at the end.
    blocks: BTreeMap<usize, Vec<(u64, Block)>>,
    frees: u64,
    idle: usize,
    live: usize,
    most_live: usize,
}

impl Idle {
    /// A block of this class, or of one up to an eighth larger.
    fn take(&mut self, class: usize) -> Option<Block> {
        let (_, blocks) =
            self.blocks.range_mut(class..=class.saturating_add(class / 8)).find(|(_, b)| !b.is_empty())?;
        let (_, block) = blocks.pop()?;
        self.idle -= block.class();
        Some(block)
    }

    /// Gives back what has been idle longest until `room` more bytes fit under the mark.
    fn make_room(&mut self, room: usize) {
        while self.idle > 0 && self.live + self.idle + room > self.most_live {
            let oldest = self.blocks.values_mut().filter(|b| !b.is_empty()).min_by_key(|b| b[0].0);
            let Some(blocks) = oldest else { return };
            self.idle -= blocks.remove(0).1.class();
        }
    }

    fn lend(&mut self, class: usize) {
        self.live += class;
        self.most_live = self.most_live.max(self.live);
    }
}

impl Pool {
    /// A block for `class` bytes, and whether its bytes are known to be zero.
    fn lend(&self, class: usize) -> Option<(Block, bool)> {
        let mut idle = self.idle.lock().unwrap();
        let (block, fresh) = if let Some(block) = idle.take(class) {
            (block, false)
        } else {
            idle.make_room(class);
            let block = Block::new(class, &self.slabs)?;
            // A piece of a slab may have been another block's.
            let zero = !matches!(block, Block::Piece(_));
            (block, zero)
        };
        idle.lend(block.class());
        Some((block, fresh))
    }

    fn take_back(&self, block: Block) {
        let mut idle = self.idle.lock().unwrap();
        let (class, stamp) = (block.class(), idle.frees);
        idle.frees += 1;
        idle.live -= class;
        idle.idle += class;
        idle.blocks.entry(class).or_default().push((stamp, block));
    }

    pub(super) fn bytes(&self) -> usize {
        self.idle.lock().unwrap().idle
    }

    /// Gives idle blocks back to the system, and counts the mark anew.
    pub(super) fn trim(&self) {
        let mut idle = self.idle.lock().unwrap();
        idle.blocks.clear();
        idle.idle = 0;
        idle.most_live = idle.live;
    }
}

enum Owner {
    /// The block goes back when the buffer is dropped, and only then is it `None`.
    Pool { pool: Arc<Pool>, block: Option<Block> },
    /// Read-only; the file is held so that the pointer stays valid.
    Map { _file: Arc<Mapping> },
    /// As pooled memory, but the file's.
    File { _file: Arc<ScratchFile> },
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
        let (mut block, fresh) = pool.lend(size_class(len)?)?;
        let ptr = block.ptr();
        if zeroed && !fresh {
            // SAFETY: the block has at least `len` bytes and is ours now.
            unsafe { ptr.as_ptr().write_bytes(0, len) };
        }
        Some(Self { ptr, len, owner: Owner::Pool { pool: pool.clone(), block: Some(block) } })
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

    /// Where a range lies, without looking at it: someone may be writing there.
    pub(super) fn address_of(&self, range: Range<usize>) -> (usize, usize) {
        (self.ptr.addr().get() + range.start, range.len())
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
        if let Owner::Pool { pool, block } = &mut self.owner
            && let Some(block) = block.take()
        {
            pool.take_back(block);
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
