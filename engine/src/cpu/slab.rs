//! Huge pages for blocks smaller than one: several share a map.
//!
//! A layer of a small model has weights of some hundred kilobytes. On pages of 4 KiB a pass over them misses the
//! address cache at every sixty-fourth line, and in a virtual machine each miss walks two tables.

use std::collections::BTreeMap;
use std::ptr::NonNull;
use std::sync::{Arc, Mutex, PoisonError};

use memmap2::MmapMut;

/// Bytes of a map; a whole number of huge pages, so that the system aligns it to them.
const SLAB: usize = 8 << 20;

/// Memory for blocks of up to 2 MiB, in maps that are given back when their last block goes.
#[derive(Default)]
pub(super) struct Slabs {
    /// By address.
    slabs: Mutex<BTreeMap<usize, Slab>>,
}

struct Slab {
    /// Held until the last piece is back.
    _map: MmapMut,
    base: NonNull<u8>,
    /// Length of each free range by its offset; neighbours are merged.
    free: BTreeMap<usize, usize>,
}

/// A part of a slab, with whatever it last held.
pub(super) struct Piece {
    slabs: Arc<Slabs>,
    ptr: NonNull<u8>,
    len: usize,
}

// SAFETY: the base is that of the map, which the slab owns.
unsafe impl Send for Slab {}

impl Slab {
    fn new() -> Option<Self> {
        let mut map = MmapMut::map_anon(SLAB).ok()?;
        // A wish: without huge pages the memory is as good, only slower.
        #[cfg(target_os = "linux")]
        let _ = map.advise(memmap2::Advice::HugePage);
        let base = NonNull::new(map.as_mut_ptr())?;
        Some(Self { _map: map, base, free: BTreeMap::from([(0, SLAB)]) })
    }

    fn take(&mut self, len: usize) -> Option<NonNull<u8>> {
        let (&at, &room) = self.free.iter().find(|&(_, &room)| room >= len)?;
        self.free.remove(&at);
        if room > len {
            self.free.insert(at + len, room - len);
        }
        // SAFETY: a range of the map.
        Some(unsafe { self.base.add(at) })
    }

    fn give_back(&mut self, at: usize, mut len: usize) {
        if let Some(after) = self.free.remove(&(at + len)) {
            len += after;
        }
        if let Some((&before, room)) = self.free.range_mut(..at).next_back()
            && before + *room == at
        {
            *room += len;
            return;
        }
        self.free.insert(at, len);
    }

    fn is_empty(&self) -> bool {
        self.free.get(&0) == Some(&SLAB)
    }
}

impl Piece {
    /// `len` bytes, at most 2 MiB, on a border of 64 bytes if all lengths are multiples of that.
    pub(super) fn new(slabs: &Arc<Slabs>, len: usize) -> Option<Self> {
        let mut all = slabs.slabs.lock().unwrap_or_else(PoisonError::into_inner);
        let ptr = if let Some(ptr) = all.values_mut().find_map(|slab| slab.take(len)) {
            ptr
        } else {
            let mut slab = Slab::new()?;
            let ptr = slab.take(len)?;
            all.insert(slab.base.addr().get(), slab);
            ptr
        };
        Some(Self { slabs: slabs.clone(), ptr, len })
    }

    pub(super) fn ptr(&self) -> NonNull<u8> {
        self.ptr
    }

    pub(super) fn len(&self) -> usize {
        self.len
    }
}

impl Drop for Piece {
    fn drop(&mut self) {
        let mut all = self.slabs.slabs.lock().unwrap_or_else(PoisonError::into_inner);
        let at = self.ptr.addr().get();
        let Some((&start, slab)) = all.range_mut(..=at).next_back() else { return };
        slab.give_back(at - start, self.len);
        if slab.is_empty() {
            all.remove(&start);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Rng;

    fn maps(slabs: &Slabs) -> usize {
        slabs.slabs.lock().unwrap().len()
    }

    #[test]
    fn pieces_are_apart_and_slabs_go_with_their_last() {
        let slabs = Arc::new(Slabs::default());
        let mut rng = Rng::new(3);
        let mut pieces: Vec<Piece> = Vec::new();
        for round in 0..2000 {
            if round % 5 > 2 && !pieces.is_empty() {
                pieces.swap_remove(rng.below(pieces.len()));
            } else {
                let len = 64 * (1 + rng.below(20_000));
                pieces.push(Piece::new(&slabs, len).unwrap());
            }
            let mut ranges: Vec<_> = pieces.iter().map(|p| (p.ptr.addr().get(), p.len)).collect();
            ranges.sort_unstable();
            assert!(ranges.windows(2).all(|w| w[0].0 + w[0].1 <= w[1].0), "two pieces overlap");
            assert!(ranges.iter().all(|r| r.0 % 64 == 0));
        }
        assert!(maps(&slabs) > 0);
        pieces.clear();
        assert_eq!(maps(&slabs), 0);
    }

    #[test]
    fn a_freed_place_is_used_again() {
        let slabs = Arc::new(Slabs::default());
        let mut pieces: Vec<_> = (0..8).map(|_| Piece::new(&slabs, 1 << 20).unwrap()).collect();
        assert_eq!(maps(&slabs), 1);
        // Two neighbours and one apart: the neighbours make room for two.
        let place = pieces[2].ptr;
        drop(pieces.drain(2..4));
        let two = Piece::new(&slabs, 2 << 20).unwrap();
        assert!(two.ptr == place && maps(&slabs) == 1);
        assert!(Piece::new(&slabs, 64).is_some() && maps(&slabs) == 1);
    }
}
