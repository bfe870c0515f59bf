//! Memory accounting: bytes in use and at the peak, per device and tag.

use std::cell::Cell;
use std::collections::BTreeMap;
use std::sync::Mutex;

use crate::profile;

thread_local! {
    static TAG: Cell<&'static str> = const { Cell::new("other") };
}

/// Runs `f`; what this thread allocates in it is booked under `tag` (the innermost tag counts).
pub fn tagged<R>(tag: &'static str, f: impl FnOnce() -> R) -> R {
    struct Restore(&'static str);
    impl Drop for Restore {
        fn drop(&mut self) {
            TAG.set(self.0);
        }
    }
    let _restore = Restore(TAG.replace(tag));
    f()
}

pub(crate) fn current_tag() -> &'static str {
    TAG.get()
}

/// Bytes of one tag, or of all.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Usage {
    /// Held by live tensors now.
    pub current: usize,
    /// Most that was held at one time.
    pub peak: usize,
}

impl Usage {
    fn add(&mut self, bytes: usize) {
        self.current += bytes;
        self.peak = self.peak.max(self.current);
    }
}

/// The books of one device.
#[derive(Debug)]
pub struct Memory {
    /// Name of its backend.
    device: &'static str,
    books: Mutex<(Usage, BTreeMap<&'static str, Usage>)>,
}

impl Memory {
    pub(crate) fn new(device: &'static str) -> Self {
        Self { device, books: Mutex::default() }
    }

    pub(crate) fn add(&self, tag: &'static str, bytes: usize) {
        let mut books = self.books.lock().unwrap();
        books.0.add(bytes);
        books.1.entry(tag).or_default().add(bytes);
        drop(books);
        profile::memory(self.device, tag, bytes as i64);
    }

    pub(crate) fn remove(&self, tag: &'static str, bytes: usize) {
        let mut books = self.books.lock().unwrap();
        books.0.current -= bytes;
        books.1.entry(tag).or_default().current -= bytes;
        drop(books);
        profile::memory(self.device, tag, -(bytes as i64));
    }

    /// Over all tags.
    pub fn total(&self) -> Usage {
        self.books.lock().unwrap().0
    }

    /// Per tag, in alphabetical order.
    pub fn by_tag(&self) -> Vec<(&'static str, Usage)> {
        self.books.lock().unwrap().1.iter().map(|(&t, &u)| (t, u)).collect()
    }

    /// Sets every peak to what is in use now.
    pub fn reset_peak(&self) {
        let mut books = self.books.lock().unwrap();
        books.0.peak = books.0.current;
        for usage in books.1.values_mut() {
            usage.peak = usage.current;
        }
    }
}
