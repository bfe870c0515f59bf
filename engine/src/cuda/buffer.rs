//! Device memory: blocks in size classes, reused in the order of the stream.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};

use cudarc::driver::CudaStream;
use cudarc::driver::result;
use cudarc::driver::sys::CUdeviceptr;

/// Blocks begin at multiples of this, as the driver's do, and have at least this size.
const ALIGN: usize = 256;

/// A block of one size class.
struct Block {
    address: CUdeviceptr,
    class: usize,
}

/// Blocks kept for reuse. All work is in one stream: what a block held is done with before the next user's first command runs, so a block
/// can be lent again at once. Live and idle blocks together never hold more than live blocks alone once did.
pub(super) struct Pool {
    stream: Arc<CudaStream>,
    idle: Mutex<Idle>,
}

#[derive(Default)]
struct Idle {
    /// By class, with the time at which each was freed. Of a class the last is lent first.
    blocks: BTreeMap<usize, Vec<(u64, Block)>>,
    frees: u64,
    idle: usize,
    live: usize,
    most_live: usize,
    /// Most that was taken from the device at one time.
    most_held: usize,
}

impl Idle {
    /// A block of this class, or of one up to an eighth larger.
    fn take(&mut self, class: usize) -> Option<Block> {
        let (_, blocks) = self.blocks.range_mut(class..=class + class / 8).find(|(_, b)| !b.is_empty())?;
        let (_, block) = blocks.pop()?;
        self.idle -= block.class;
        Some(block)
    }

    /// What has been idle longest, until `room` more bytes fit under the mark.
    fn make_room(&mut self, room: usize) -> Vec<Block> {
        let mut out = Vec::new();
        while self.idle > 0 && self.live + self.idle + room > self.most_live {
            let each = self.blocks.iter().flat_map(|(class, blocks)| {
                blocks.iter().enumerate().map(move |(i, (stamp, _))| (*stamp, *class, i))
            });
            let Some((_, class, i)) = each.min() else { break };
            let (_, block) = self.blocks.get_mut(&class).expect("a class with blocks").remove(i);
            self.idle -= block.class;
            out.push(block);
        }
        out
    }

    fn all(&mut self) -> Vec<Block> {
        self.idle = 0;
        std::mem::take(&mut self.blocks).into_values().flatten().map(|(_, block)| block).collect()
    }
}

/// Rounds up to one of sixteen sizes per power of two: at most a sixteenth is wasted, and shapes that differ a little share blocks.
fn size_class(bytes: usize) -> Option<usize> {
    let bytes = bytes.max(ALIGN);
    let step = (bytes.checked_next_power_of_two()? / 32).max(ALIGN);
    bytes.checked_next_multiple_of(step)
}

impl Pool {
    pub(super) fn new(stream: Arc<CudaStream>) -> Self {
        Self { stream, idle: Mutex::default() }
    }

    /// Room for `bytes`, with unspecified contents; `None` if the device has none. `launch` is called before a block goes back to the device:
    /// work that uses it and was noted for later must be in the stream by then.
    pub(super) fn lend(self: &Arc<Self>, bytes: usize, launch: impl Fn()) -> Option<CudaBuffer> {
        let class = size_class(bytes)?;
        let mut idle = self.idle.lock().unwrap();
        let block = if let Some(block) = idle.take(class) {
            block
        } else {
            self.give_back(idle.make_room(class), &launch);
            if let Some(block) = self.create(class) {
                block
            } else {
                // What lies idle may be all that is missing, or what went back just now: it is free when the stream has come to it.
                self.give_back(idle.all(), &launch);
                self.stream.synchronize().ok()?;
                self.create(class)?
            }
        };
        idle.live += block.class;
        idle.most_live = idle.most_live.max(idle.live);
        idle.most_held = idle.most_held.max(idle.live + idle.idle);
        Some(CudaBuffer { address: block.address, class: block.class, len: bytes, pool: self.clone() })
    }

    fn create(&self, class: usize) -> Option<Block> {
        self.stream.context().bind_to_thread().ok()?;
        // SAFETY: the stream lives; the memory is used by its later work alone.
        let address = unsafe { result::malloc_async(self.stream.cu_stream(), class) }.ok()?;
        Some(Block { address, class })
    }

    fn give_back(&self, blocks: Vec<Block>, launch: impl Fn()) {
        if !blocks.is_empty() {
            launch();
        }
        let context = self.stream.context();
        for block in blocks {
            context.record_err(context.bind_to_thread());
            // SAFETY: an address of `malloc_async`, freed once; no later work uses it.
            context.record_err(unsafe { result::free_async(block.address, self.stream.cu_stream()) });
        }
    }

    /// Bytes: that buffers hold, that are kept for reuse, and the most that both were at one time.
    pub(super) fn bytes(&self) -> [usize; 3] {
        let idle = self.idle.lock().unwrap();
        [idle.live, idle.idle, idle.most_held]
    }

    /// Gives idle blocks back to the device, and counts the mark anew. `launch` as in [`Self::lend`].
    pub(super) fn trim(&self, launch: impl Fn()) {
        let mut idle = self.idle.lock().unwrap();
        self.give_back(idle.all(), launch);
        idle.most_live = idle.live;
    }

    /// Forgets in which order blocks were freed: work that finds the same blocks idle gets the same ones in the same order.
    pub(super) fn settle(&self) {
        for blocks in self.idle.lock().unwrap().blocks.values_mut() {
            blocks.sort_unstable_by_key(|(_, block)| std::cmp::Reverse(block.address));
        }
    }
}

impl Drop for Pool {
    fn drop(&mut self) {
        let blocks = self.idle.get_mut().unwrap_or_else(std::sync::PoisonError::into_inner).all();
        self.give_back(blocks, || {});
    }
}

/// Memory of one storage.
pub struct CudaBuffer {
    address: CUdeviceptr,
    class: usize,
    len: usize,
    pool: Arc<Pool>,
}

impl CudaBuffer {
    /// Where it begins on the device: a multiple of 256.
    pub(super) fn address(&self) -> CUdeviceptr {
        self.address
    }

    /// Bytes of the storage; the block may have more.
    pub(super) fn len(&self) -> usize {
        self.len
    }
}

impl Drop for CudaBuffer {
    fn drop(&mut self) {
        // After a panic elsewhere the books may be off; the block must not be lost for that.
        let mut idle = self.pool.idle.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        let stamp = idle.frees;
        idle.frees += 1;
        idle.live -= self.class;
        idle.idle += self.class;
        let block = Block { address: self.address, class: self.class };
        idle.blocks.entry(self.class).or_default().push((stamp, block));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn classes_waste_at_most_a_sixteenth() {
        for bytes in (1..1 << 20).step_by(37) {
            let class = size_class(bytes).unwrap();
            assert!(class >= bytes && class.is_multiple_of(ALIGN), "{bytes}");
            assert!(bytes < 8192 || class - bytes <= bytes / 16 + 1, "{bytes} in {class}");
        }
        assert_eq!(size_class(0), Some(ALIGN));
        assert_eq!(size_class(usize::MAX), None);
    }
}
