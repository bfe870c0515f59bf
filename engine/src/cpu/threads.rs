//! A fork-join pool for kernels.
//!
//! A decode step forks a few hundred times in some milliseconds, so workers spin briefly before they
//! sleep and a fork costs about a microsecond. Tasks are numbered by the *kernel* (from shapes alone)
//! and handed out in order by one counter: how many threads take part never changes a result.

use std::cell::Cell;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Condvar, Mutex, OnceLock};

/// Type-erased pointer to the running job's closure; valid until `finished` equals `workers`.
#[derive(Clone, Copy)]
struct Job {
    call: unsafe fn(*const (), usize),
    data: *const (),
    tasks: usize,
}

struct Shared {
    /// Odd while a job is published for this epoch; bumped by two per job.
    epoch: AtomicU64,
    job: Mutex<Option<Job>>,
    next: AtomicUsize,
    /// Workers that have left the job of the current epoch.
    left: AtomicUsize,
    panicked: AtomicBool,
    sleepers: Mutex<usize>,
    wake: Condvar,
}

// SAFETY: `Job` holds a raw pointer to a `Sync` closure that outlives the job (`parallel_for` does not
// return before every worker has left it), so sharing it between threads is sound.
unsafe impl Send for Shared {}
// SAFETY: as above; every other field is an atomic or a lock.
unsafe impl Sync for Shared {}

/// The pool of one process.
struct Pool {
    shared: Arc<Shared>,
    workers: usize,
    /// Held by the thread that forks; a second forking thread runs its tasks alone instead of waiting.
    forking: Mutex<()>,
}

/// Rounds of spinning before a worker sleeps: some 20 to 50 microseconds.
const SPINS: u32 = 20_000;

static WANTED: AtomicUsize = AtomicUsize::new(0);
static POOL: OnceLock<Pool> = OnceLock::new();

thread_local! {
    static INSIDE: Cell<bool> = const { Cell::new(false) };
    static LIMIT: Cell<usize> = const { Cell::new(usize::MAX) };
}

/// Sets the number of threads. Works once, before the first kernel runs; returns false after that.
pub fn set_threads(n: usize) -> bool {
    WANTED.store(n.max(1), Ordering::Relaxed);
    POOL.get().is_none()
}

/// Threads that take part in a kernel, the calling one included.
pub fn threads() -> usize {
    (pool().workers + 1).min(LIMIT.get())
}

/// Runs `f` with at most `n` threads on this thread's kernels. For tests that compare thread counts.
pub fn with_threads<R>(n: usize, f: impl FnOnce() -> R) -> R {
    struct Restore(usize);
    impl Drop for Restore {
        fn drop(&mut self) {
            LIMIT.set(self.0);
        }
    }
    let _restore = Restore(LIMIT.replace(n.max(1)));
    f()
}

fn pool() -> &'static Pool {
    POOL.get_or_init(|| {
        let wanted = match WANTED.load(Ordering::Relaxed) {
            0 => std::thread::available_parallelism().map_or(1, usize::from),
            n => n,
        };
        let shared = Arc::new(Shared {
            epoch: AtomicU64::new(0),
            job: Mutex::new(None),
            next: AtomicUsize::new(0),
            left: AtomicUsize::new(0),
            panicked: AtomicBool::new(false),
            sleepers: Mutex::new(0),
            wake: Condvar::new(),
        });
        let mut workers = 0;
        for i in 1..wanted {
            let shared = Arc::clone(&shared);
            let spawned =
                std::thread::Builder::new().name(format!("roentgen-cpu-{i}")).spawn(move || worker(&shared));
            workers += usize::from(spawned.is_ok());
        }
        Pool { shared, workers, forking: Mutex::new(()) }
    })
}

fn worker(shared: &Shared) {
    INSIDE.set(true);
    let mut seen = 0;
    loop {
        let mut spins = 0;
        while shared.epoch.load(Ordering::Acquire) == seen {
            spins += 1;
            if spins < SPINS {
                std::hint::spin_loop();
                continue;
            }
            let mut sleepers = shared.sleepers.lock().unwrap();
            *sleepers += 1;
            while shared.epoch.load(Ordering::Acquire) == seen {
                sleepers = shared.wake.wait(sleepers).unwrap();
            }
            *sleepers -= 1;
        }
        seen = shared.epoch.load(Ordering::Acquire);
        let job = *shared.job.lock().unwrap();
        if let Some(job) = job {
            work(shared, job);
        }
        shared.left.fetch_add(1, Ordering::Release);
    }
}

fn work(shared: &Shared, job: Job) {
    loop {
        let task = shared.next.fetch_add(1, Ordering::Relaxed);
        if task >= job.tasks {
            return;
        }
        // SAFETY: the closure outlives the job, see `Shared`.
        let outcome = catch_unwind(AssertUnwindSafe(|| unsafe { (job.call)(job.data, task) }));
        if outcome.is_err() {
            shared.panicked.store(true, Ordering::Relaxed);
        }
    }
}

/// Calls `f(0) … f(tasks - 1)`, each once, on all threads; returns when all are done. Nested calls run
/// their tasks on the calling thread.
///
/// # Panics
/// If a task panicked (a defect in a kernel).
pub fn parallel_for<F: Fn(usize) + Sync>(tasks: usize, f: F) {
    unsafe fn call<F: Fn(usize)>(data: *const (), task: usize) {
        // SAFETY: `data` came from `&f` of the `F` that this function was instantiated with.
        unsafe { (*data.cast::<F>())(task) }
    }
    let alone = |f: &F| (0..tasks).for_each(f);
    if tasks <= 1 || INSIDE.get() || LIMIT.get() <= 1 {
        return alone(&f);
    }
    let pool = pool();
    if pool.workers == 0 {
        return alone(&f);
    }
    let Ok(_forking) = pool.forking.try_lock() else { return alone(&f) };
    let shared = &*pool.shared;
    let job = Job { call: call::<F>, data: std::ptr::from_ref(&f).cast(), tasks };
    *shared.job.lock().unwrap() = Some(job);
    shared.next.store(0, Ordering::Relaxed);
    shared.left.store(0, Ordering::Relaxed);
    shared.panicked.store(false, Ordering::Relaxed);
    {
        let sleepers = shared.sleepers.lock().unwrap();
        shared.epoch.fetch_add(1, Ordering::Release);
        if *sleepers > 0 {
            shared.wake.notify_all();
        }
    }
    INSIDE.set(true);
    let mine = catch_unwind(AssertUnwindSafe(|| work(shared, job)));
    INSIDE.set(false);
    let mut spins = 0u32;
    while shared.left.load(Ordering::Acquire) < pool.workers {
        spins += 1;
        if spins > SPINS {
            std::thread::yield_now();
        } else {
            std::hint::spin_loop();
        }
    }
    if let Err(panic) = mine {
        resume_unwind(panic);
    }
    assert!(!shared.panicked.load(Ordering::Relaxed), "a kernel task panicked");
}

/// A mutable slice that tasks of one [`parallel_for`] write at places of their own.
#[derive(Clone, Copy)]
pub struct Scatter<T> {
    ptr: *mut T,
    len: usize,
}

// SAFETY: only `slice` gives access, and its caller promises disjoint ranges.
unsafe impl<T: Send> Send for Scatter<T> {}
// SAFETY: as above.
unsafe impl<T: Send> Sync for Scatter<T> {}

impl<T> Scatter<T> {
    /// Wraps `data` for the time of one fork.
    pub fn new(data: &mut [T]) -> Self {
        Self { ptr: data.as_mut_ptr(), len: data.len() }
    }

    /// The part `start .. start + len`.
    ///
    /// # Safety
    /// No other live slice from this value may overlap the range, and the wrapped slice must outlive it.
    ///
    /// # Panics
    /// If the range is out of bounds.
    #[inline]
    #[allow(clippy::mut_from_ref)]
    pub unsafe fn slice<'a>(&self, start: usize, len: usize) -> &'a mut [T] {
        assert!(start <= self.len && len <= self.len - start, "scatter range out of bounds");
        // SAFETY: in bounds by the assertion; disjointness and lifetime by the caller.
        unsafe { std::slice::from_raw_parts_mut(self.ptr.add(start), len) }
    }

    /// Writes element `i`.
    ///
    /// # Safety
    /// As for [`Self::slice`].
    ///
    /// # Panics
    /// If `i` is out of bounds.
    #[inline]
    pub unsafe fn set(&self, i: usize, value: T) {
        // SAFETY: by the caller.
        let slot = unsafe { self.slice(i, 1) };
        slot[0] = value;
    }

    /// Base pointer, for kernels that write strided tiles under the same promise as [`Self::slice`].
    pub fn as_mut_ptr(&self) -> *mut T {
        self.ptr
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_task_runs_once() {
        for n in [0, 1, 2, 3, 17, 1000] {
            let mut hits = vec![0u32; n];
            let out = Scatter::new(&mut hits);
            // SAFETY: each task has its own element.
            parallel_for(n, |i| unsafe { out.slice(i, 1)[0] += 1 });
            assert!(hits.iter().all(|&h| h == 1));
        }
    }

    #[test]
    fn forks_nest_and_overlap() {
        let total = AtomicUsize::new(0);
        std::thread::scope(|s| {
            for _ in 0..4 {
                s.spawn(|| {
                    for _ in 0..200 {
                        parallel_for(5, |_| {
                            parallel_for(3, |_| {
                                total.fetch_add(1, Ordering::Relaxed);
                            });
                        });
                    }
                });
            }
        });
        assert_eq!(total.into_inner(), 4 * 200 * 15);
    }

    #[test]
    fn a_panicking_task_is_reported() {
        let outcome = catch_unwind(|| parallel_for(8, |i| assert!(i != 5, "planted")));
        assert!(outcome.is_err());
        parallel_for(8, |_| {});
    }
}
