//! A fork-join pool for kernels.
//!
//! A decode step forks a few hundred times in some milliseconds, so workers spin briefly before they
//! sleep and a fork costs about a microsecond. Tasks are numbered by the *kernel* (from shapes alone)
//! and handed out in order by one counter: how many threads take part never changes a result.

use std::cell::{Cell, UnsafeCell};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Condvar, Mutex, OnceLock};

/// Type-erased call of the running job's closure.
#[derive(Clone, Copy)]
struct Job {
    call: unsafe fn(*const (), usize),
    data: *const (),
    tasks: usize,
    /// Workers that may be inside at once.
    workers: usize,
}

/// A value on cache lines of its own (two, for the prefetcher that fetches pairs).
#[repr(align(128))]
struct Padded<T>(T);

/// What the forking thread and the workers share.
///
/// `gate` is the whole protocol. Its fields, from the top: a 32-bit epoch, one `OPEN` bit, the number of
/// workers inside the job. The forking thread opens the gate when the job stands, closes it when no task
/// is left to hand out, and then waits for the workers *inside* only: one that the system has not
/// scheduled finds the gate closed when it comes and is not missed.
struct Shared {
    gate: Padded<AtomicU64>,
    /// The next task to hand out.
    next: Padded<AtomicUsize>,
    /// Written only while the gate is closed and nobody is inside; read only from inside.
    job: UnsafeCell<Option<Job>>,
    panicked: AtomicBool,
    sleepers: Mutex<usize>,
    wake: Condvar,
}

const OPEN: u64 = 1 << 31;
const INSIDE_MASK: u64 = OPEN - 1;
const EPOCH: u64 = 1 << 32;

// SAFETY: `Job` points to a `Sync` closure that lives until `Pool::run` returns, which is after the last
// worker has left the job; the cell that holds it is written only by the thread that holds `Pool::forking`
// while nobody is inside, and entering (acquire) reads what opening (release) published.
unsafe impl Send for Shared {}
// SAFETY: as above; every other field is an atomic or a lock.
unsafe impl Sync for Shared {}

/// Workers and the state they share with whoever forks.
struct Pool {
    shared: Arc<Shared>,
    workers: usize,
    /// Held by the thread that forks; a second forking thread runs its tasks alone instead of waiting.
    forking: Mutex<()>,
}

/// Rounds of spinning before a worker sleeps: some 50 microseconds (a `pause` takes 10 to 40 ns).
const SPINS: u32 = 2_000;

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
        Pool::new(match WANTED.load(Ordering::Relaxed) {
            0 => std::thread::available_parallelism().map_or(1, usize::from),
            n => n,
        })
    })
}

fn worker(shared: &Shared) {
    INSIDE.set(true);
    let mut seen = 0;
    loop {
        let inside = shared.enter(&mut seen);
        // SAFETY: this worker is inside, so the job stands and is not written.
        if let Some(job) = unsafe { *shared.job.get() }
            && inside <= job.workers
        {
            shared.work(job);
        }
        shared.gate.0.fetch_sub(1, Ordering::Release);
    }
}

impl Shared {
    /// Waits for an open gate of another epoch than `seen` and goes in. Returns the number of workers
    /// then inside.
    fn enter(&self, seen: &mut u64) -> usize {
        let fresh = |gate: u64, seen: u64| gate & OPEN != 0 && gate / EPOCH != seen;
        let mut spins = 0;
        loop {
            let gate = self.gate.0.load(Ordering::Relaxed);
            if fresh(gate, *seen) {
                // A failed exchange means that the gate moved: look again.
                let entered =
                    self.gate.0.compare_exchange(gate, gate + 1, Ordering::Acquire, Ordering::Relaxed);
                if entered.is_ok() {
                    *seen = gate / EPOCH;
                    return (gate & INSIDE_MASK) as usize + 1;
                }
            } else if spins < SPINS {
                spins += 1;
                std::hint::spin_loop();
            } else {
                let mut sleepers = self.sleepers.lock().unwrap();
                *sleepers += 1;
                // The forking thread takes this lock after it has opened the gate, so a gate that is not
                // open here will be followed by a wake.
                while !fresh(self.gate.0.load(Ordering::Relaxed), *seen) {
                    sleepers = self.wake.wait(sleepers).unwrap();
                }
                *sleepers -= 1;
                spins = 0;
            }
        }
    }

    fn work(&self, job: Job) {
        loop {
            let task = self.next.0.fetch_add(1, Ordering::Relaxed);
            if task >= job.tasks {
                return;
            }
            // SAFETY: the closure outlives the job, see `Shared`.
            let outcome = catch_unwind(AssertUnwindSafe(|| unsafe { (job.call)(job.data, task) }));
            if outcome.is_err() {
                self.panicked.store(true, Ordering::Relaxed);
            }
        }
    }
}

impl Pool {
    fn new(threads: usize) -> Self {
        let shared = Arc::new(Shared {
            gate: Padded(AtomicU64::new(EPOCH)),
            next: Padded(AtomicUsize::new(0)),
            job: UnsafeCell::new(None),
            panicked: AtomicBool::new(false),
            sleepers: Mutex::new(0),
            wake: Condvar::new(),
        });
        let mut workers = 0;
        for i in 1..threads {
            let shared = Arc::clone(&shared);
            let spawned =
                std::thread::Builder::new().name(format!("roentgen-cpu-{i}")).spawn(move || worker(&shared));
            workers += usize::from(spawned.is_ok());
        }
        Self { shared, workers, forking: Mutex::new(()) }
    }

    /// Runs the tasks on this thread and at most `limit - 1` workers.
    fn run<F: Fn(usize) + Sync>(&self, tasks: usize, limit: usize, f: &F) {
        unsafe fn call<F: Fn(usize)>(data: *const (), task: usize) {
            // SAFETY: `data` came from the `&F` of the `F` that this function was instantiated with.
            unsafe { (*data.cast::<F>())(task) }
        }
        if self.workers == 0 {
            return (0..tasks).for_each(f);
        }
        let Ok(forking) = self.forking.try_lock() else { return (0..tasks).for_each(f) };
        let shared = &*self.shared;
        let job = Job {
            call: call::<F>,
            data: std::ptr::from_ref(f).cast(),
            tasks,
            workers: limit.saturating_sub(1),
        };
        // SAFETY: the gate is closed and nobody is inside (the last `run` saw to it), and `forking` is held.
        unsafe { *shared.job.get() = Some(job) };
        shared.next.0.store(0, Ordering::Relaxed);
        shared.panicked.store(false, Ordering::Relaxed);
        // The gate holds the bare epoch here, so the addition sets OPEN. Release publishes the job.
        shared.gate.0.fetch_add(EPOCH + OPEN, Ordering::Release);
        if *shared.sleepers.lock().unwrap() > 0 {
            shared.wake.notify_all();
        }
        INSIDE.set(true);
        shared.work(job);
        INSIDE.set(false);
        shared.gate.0.fetch_and(!OPEN, Ordering::Relaxed);
        let mut spins = 0;
        // Acquire pairs with the release of every worker that left: their writes are visible after this.
        while shared.gate.0.load(Ordering::Acquire) & INSIDE_MASK != 0 {
            spins += 1;
            if spins > SPINS {
                std::thread::yield_now();
            } else {
                std::hint::spin_loop();
            }
        }
        let panicked = shared.panicked.load(Ordering::Relaxed);
        // Before the panic below, which would poison the lock.
        drop(forking);
        assert!(!panicked, "a kernel task panicked");
    }
}

/// Calls `f(0) … f(tasks - 1)`, each once, on all threads; returns when all are done. Nested calls run
/// their tasks on the calling thread.
///
/// # Panics
/// If a task panicked (a defect in a kernel).
pub fn parallel_for<F: Fn(usize) + Sync>(tasks: usize, f: F) {
    let limit = LIMIT.get();
    if tasks <= 1 || INSIDE.get() || limit <= 1 {
        return (0..tasks).for_each(f);
    }
    pool().run(tasks, limit, &f);
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
    fn more_workers_than_cores() {
        // Most workers come too late for most of these jobs; each must still run every task exactly once,
        // and what it wrote must be visible when `run` returns.
        let pool = Pool::new(7);
        let mut hits = vec![0u32; 64];
        for round in 1..=2000 {
            let out = Scatter::new(&mut hits);
            // SAFETY: each task has its own element.
            pool.run(64, 7, &|i| unsafe { out.slice(i, 1)[0] += 1 });
            assert!(hits.iter().all(|&h| h == round));
        }
    }

    #[test]
    fn sleeping_workers_wake() {
        let pool = Pool::new(3);
        for _ in 0..20 {
            std::thread::sleep(std::time::Duration::from_millis(2));
            let total = AtomicUsize::new(0);
            pool.run(9, 3, &|i| {
                total.fetch_add(i, Ordering::Relaxed);
            });
            assert_eq!(total.into_inner(), 36);
        }
    }

    #[test]
    fn the_limit_bounds_the_threads_at_work() {
        let pool = Pool::new(6);
        let (now, most) = (AtomicUsize::new(0), AtomicUsize::new(0));
        for _ in 0..50 {
            pool.run(40, 2, &|_| {
                most.fetch_max(now.fetch_add(1, Ordering::Relaxed) + 1, Ordering::Relaxed);
                std::thread::yield_now();
                now.fetch_sub(1, Ordering::Relaxed);
            });
        }
        assert!(most.into_inner() <= 2);
    }

    #[test]
    fn a_panicking_task_is_reported() {
        let outcome = catch_unwind(|| parallel_for(8, |i| assert!(i != 5, "planted")));
        assert!(outcome.is_err());
        parallel_for(8, |_| {});
    }
}
