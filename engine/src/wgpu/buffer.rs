//! Memory of the device: whole buffers in size classes, kept for reuse.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};

use ::wgpu;

use super::problems::{Problems, watched};
use super::recorded::Recorded;

/// Smallest buffer; bindings start at multiples of it on every adapter.
const LEAST: u64 = 256;

/// Rounds up to one of eight sizes per power of two: at most an eighth is wasted, and shapes that differ a little
/// share buffers.
fn size_class(bytes: usize) -> u64 {
    let bytes = (bytes as u64).max(LEAST);
    let step = (bytes.next_power_of_two() / 16).max(LEAST);
    bytes.next_multiple_of(step)
}

/// A buffer of the device, and its number: no other ever has the same.
struct Numbered {
    buffer: wgpu::Buffer,
    id: u64,
}

/// A buffer that waits for reuse.
struct Freed {
    stamp: u64,
    buffer: Numbered,
    /// Commands that have not been submitted may still use it.
    last_use: u64,
}

#[derive(Default)]
struct Idle {
    /// By class; in each class the one that was freed last is at the end.
    buffers: BTreeMap<u64, Vec<Freed>>,
    frees: u64,
    idle: u64,
    live: u64,
    most_live: u64,
    /// Buffers made so far.
    made: u64,
    /// Numbers of those that were given back to the device and not yet told.
    dead: Vec<u64>,
}

impl Idle {
    /// A buffer of this class, or of one up to an eighth larger.
    fn take(&mut self, class: u64) -> Option<Freed> {
        let (_, buffers) = self.buffers.range_mut(class..=class + class / 8).find(|(_, b)| !b.is_empty())?;
        let freed = buffers.pop()?;
        self.idle -= freed.buffer.buffer.size();
        Some(freed)
    }

    /// Gives back what has been idle longest until `room` more bytes fit under the mark.
    fn make_room(&mut self, room: u64) {
        while self.idle > 0 && self.live + self.idle + room > self.most_live {
            let oldest = self.buffers.values_mut().filter(|b| !b.is_empty()).min_by_key(|b| b[0].stamp);
            let Some(buffers) = oldest else { return };
            let freed = buffers.remove(0).buffer;
            self.idle -= freed.buffer.size();
            self.dead.push(freed.id);
        }
    }

    /// Gives back all that is idle.
    fn clear(&mut self) {
        let freed = std::mem::take(&mut self.buffers);
        self.dead.extend(freed.into_values().flatten().map(|freed| freed.buffer.id));
        self.idle = 0;
    }
}

/// Buffers kept for reuse. Live and idle ones together never hold more than live ones alone once did.
pub(super) struct Pool {
    device: wgpu::Device,
    largest: u64,
    /// Bytes that live and idle buffers may have together.
    most: AtomicU64,
    idle: Mutex<Idle>,
    problems: Arc<Problems>,
    recorded: Arc<Recorded>,
    #[cfg(test)]
    full: tests::Full,
}

/// Why there is no buffer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Refusal {
    /// It is larger than buffers can be, beyond what they may come to, or the device is gone.
    ForGood,
    /// The device has no room. Idle buffers may be all that is missing: commands hold those that they use until they
    /// have run.
    ForNow,
}

impl Pool {
    pub(super) fn new(
        device: wgpu::Device,
        largest: u64,
        problems: Arc<Problems>,
        recorded: Arc<Recorded>,
    ) -> Self {
        let most = AtomicU64::new(u64::MAX);
        Self {
            device,
            largest,
            most,
            idle: Mutex::default(),
            problems,
            recorded,
            #[cfg(test)]
            full: tests::Full::default(),
        }
    }

    /// A buffer for `bytes`, and whether it is known to be zero.
    pub(super) fn lend(self: &Arc<Self>, bytes: usize) -> Result<(WgpuBuffer, bool), Refusal> {
        let class = size_class(bytes);
        if class > self.largest || self.problems.alive(String::new).is_err() {
            return Err(Refusal::ForGood);
        }
        let mut idle = self.idle.lock().unwrap();
        let (buffer, last_use, fresh) = self.lend_from(&mut idle, class)?;
        idle.live += buffer.buffer.size();
        idle.most_live = idle.most_live.max(idle.live);
        let (pool, last_use) = (self.clone(), AtomicU64::new(last_use));
        Ok((WgpuBuffer { buffer: Some(buffer), len: bytes, last_use, pool }, fresh))
    }

    /// A buffer of this class, when it was last used, and whether it is new.
    fn lend_from(&self, idle: &mut Idle, class: u64) -> Result<(Numbered, u64, bool), Refusal> {
        if let Some(Freed { buffer, last_use, .. }) = idle.take(class) {
            return Ok((buffer, last_use, false));
        }
        idle.make_room(class);
        let most = self.most.load(Ordering::Relaxed);
        if idle.live.saturating_add(class) > most {
            return Err(Refusal::ForGood);
        }
        if idle.live + idle.idle + class > most {
            idle.clear();
        }
        // Before more is asked for: what they bind is not given back while they are kept.
        self.recorded.forget(std::mem::take(&mut idle.dead));
        let buffer = self.create(class).ok_or(Refusal::ForNow)?;
        idle.made += 1;
        Ok((Numbered { buffer, id: idle.made }, 0, true))
    }

    fn create(&self, size: u64) -> Option<wgpu::Buffer> {
        #[cfg(test)]
        if !self.full.room(&self.device, size) {
            return None;
        }
        let descriptor = wgpu::BufferDescriptor {
            label: None,
            size,
            usage: wgpu::BufferUsages::STORAGE
                | wgpu::BufferUsages::UNIFORM
                | wgpu::BufferUsages::COPY_SRC
                | wgpu::BufferUsages::COPY_DST,
            mapped_at_creation: false,
        };
        let (buffer, refused) = watched(&self.device, || self.device.create_buffer(&descriptor));
        // On a device that is gone there are no errors, and no buffers either.
        (refused.is_none() && self.problems.alive(String::new).is_ok()).then_some(buffer)
    }

    fn take_back(&self, buffer: Numbered, last_use: u64) {
        let mut idle = self.idle.lock().unwrap();
        let (size, stamp) = (buffer.buffer.size(), idle.frees);
        idle.frees += 1;
        idle.live -= size;
        idle.idle += size;
        idle.buffers.entry(size).or_default().push(Freed { stamp, buffer, last_use });
    }

    pub(super) fn limit(&self, bytes: u64) {
        self.most.store(bytes, Ordering::Relaxed);
    }

    /// Bytes of buffers: live, and idle.
    pub(super) fn bytes(&self) -> [u64; 2] {
        let idle = self.idle.lock().unwrap();
        [idle.live, idle.idle]
    }

    /// Gives idle buffers back to the device, and counts the mark anew.
    pub(super) fn trim(&self) {
        let mut idle = self.idle.lock().unwrap();
        idle.clear();
        self.recorded.forget(std::mem::take(&mut idle.dead));
        idle.most_live = idle.live;
    }
}

/// Memory of one storage: a buffer of its own, for a buffer cannot be bound for reading and for writing at once.
pub struct WgpuBuffer {
    /// `None` only while it is dropped.
    buffer: Option<Numbered>,
    len: usize,
    /// The last batch whose commands use it.
    last_use: AtomicU64,
    pool: Arc<Pool>,
}

impl WgpuBuffer {
    fn numbered(&self) -> &Numbered {
        self.buffer.as_ref().expect("there until it is dropped")
    }

    pub(super) fn raw(&self) -> &wgpu::Buffer {
        &self.numbered().buffer
    }

    pub(super) fn id(&self) -> u64 {
        self.numbered().id
    }

    /// Bytes of the storage; the buffer may have more.
    pub(super) fn len(&self) -> usize {
        self.len
    }

    pub(super) fn used_in(&self, batch: u64) {
        self.last_use.store(batch, Ordering::Relaxed);
    }

    pub(super) fn last_use(&self) -> u64 {
        self.last_use.load(Ordering::Relaxed)
    }
}

impl Drop for WgpuBuffer {
    fn drop(&mut self) {
        if let Some(buffer) = self.buffer.take() {
            self.pool.take_back(buffer, *self.last_use.get_mut());
        }
    }
}

#[cfg(test)]
mod tests;
