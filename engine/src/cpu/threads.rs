//! A fork-join pool for kernels.
//!
//! A decode step forks a few hundred times in some milliseconds, so workers spin briefly before they
//! sleep and a fork costs about a microsecond. Tasks are numbered by the *kernel* (from shapes alone)
//! and handed out in order by one counter, or by a counter for each thread's stretch: how many threads take
//! part never changes a result.
//!
//! A worker that waits can fetch memory that will be read next into its cache: [`will_read`].

use std::cell::{Cell, UnsafeCell};
use std::ops::Range;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Condvar, Mutex, OnceLock};

/// Type-erased call of the running job's closure.
#[derive(Clone, Copy)]
struct Job {
    call: unsafe fn(*const (), usize),
    data: *const (),
    tasks: usize,
    /// Stretches of consecutive tasks, each with a counter of its own.
    stretches: usize,
    /// Workers that may be inside at once.
    workers: usize,
}

impl Job {
    /// First task of a stretch.
    fn start(&self, stretch: usize) -> usize {
        self.tasks * stretch / self.stretches
    }
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
    /// The next task to hand out, of each stretch; one for each thread.
    next: Box<[Padded<AtomicUsize>]>,
    /// Written only while the gate is closed and nobody is inside; read only from inside.
    job: UnsafeCell<Option<Job>>,
    panicked: AtomicBool,
    wishes: Wishes,
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

/// Most pieces of memory that are wished for at a time.
const WISHES: usize = 8;
/// Most bytes that one worker fetches for one set of wishes: half of a second-level cache.
const FETCH: usize = 512 << 10;
/// Bytes fetched between two looks at the gate.
const FETCH_STEP: usize = 512;
const LINE: usize = 64;

/// Memory that will be read soon. It is only ever prefetched, which does not fault, so nothing keeps it alive and a mix
/// of two sets does no harm.
#[derive(Default)]
struct Wishes {
    /// Counts the sets.
    set: AtomicUsize,
    /// Address and length.
    pieces: [(AtomicUsize, AtomicUsize); WISHES],
}

/// What one worker has yet to fetch.
struct Fetcher {
    /// Of all threads.
    share: (usize, usize),
    set: usize,
    pieces: [(usize, usize); 2 * WISHES],
    at: usize,
    left: usize,
}

impl Fetcher {
    fn new(me: usize, threads: usize) -> Self {
        Self { share: (me, threads), set: 0, pieces: [(0, 0); 2 * WISHES], at: 0, left: 0 }
    }

    /// Takes a new set: first the stretch of each piece that this thread will begin with, then those of the thread that
    /// forks, which has other things to do now.
    fn take(&mut self, wishes: &Wishes, set: usize) {
        (self.set, self.at, self.left) = (set, 0, FETCH);
        let (me, threads) = self.share;
        for (i, (at, len)) in wishes.pieces.iter().enumerate() {
            let (at, len) = (at.load(Ordering::Relaxed), len.load(Ordering::Relaxed));
            let cut = |part: usize| len / threads * part;
            self.pieces[i] = (at + cut(me), if me + 1 == threads { len - cut(me) } else { len / threads });
            self.pieces[WISHES + i] = (at, len / threads);
        }
    }

    /// Fetches a little. False if nothing is left.
    #[inline]
    fn step(&mut self, wishes: &Wishes) -> bool {
        let set = wishes.set.load(Ordering::Acquire);
        if set != self.set {
            self.take(wishes, set);
        }
        while let Some((at, len)) = self.pieces.get_mut(self.at) {
            if *len == 0 || self.left == 0 {
                self.at += 1;
                continue;
            }
            let n = (*len).min(FETCH_STEP);
            for line in (0..n).step_by(LINE) {
                fetch(*at + line);
            }
            *at += n;
            *len -= n;
            self.left = self.left.saturating_sub(n);
            return true;
        }
        false
    }
}

/// Brings a line into the second-level cache.
#[inline(always)]
fn fetch(at: usize) {
    #[cfg(target_arch = "x86_64")]
    // SAFETY: a prefetch does not fault, whatever the address.
    unsafe {
        use std::arch::x86_64::{_MM_HINT_T1, _mm_prefetch};
        _mm_prefetch::<_MM_HINT_T1>(std::ptr::without_provenance(at));
    }
    #[cfg(not(target_arch = "x86_64"))]
    let _ = at;
}

/// Says that these pieces of memory will be read soon, from the first on: workers that wait for their next job fetch
/// them meanwhile. Pieces are addresses and lengths. A new set replaces the last; pieces beyond the eighth are left out.
/// No result depends on it.
pub fn will_read(pieces: impl IntoIterator<Item = (usize, usize)>) {
    let wishes = &pool().shared.wishes;
    let mut pieces = pieces.into_iter();
    for (at, len) in &wishes.pieces {
        let piece = pieces.next().unwrap_or_default();
        at.store(piece.0, Ordering::Relaxed);
        len.store(piece.1, Ordering::Relaxed);
    }
    wishes.set.fetch_add(1, Ordering::Release);
}

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

/// The life of worker number `me`, from 1 on.
fn worker(shared: &Shared, me: usize) {
    INSIDE.set(true);
    let mut seen = 0;
    let mut fetcher = Fetcher::new(me, shared.next.len());
    loop {
        let inside = shared.enter(&mut seen, &mut fetcher);
        // SAFETY: this worker is inside, so the job stands and is not written.
        if let Some(job) = unsafe { *shared.job.get() }
            && inside <= job.workers
        {
            shared.work(job, me);
        }
        shared.gate.0.fetch_sub(1, Ordering::Release);
    }
}

impl Shared {
    /// Waits for an open gate of another epoch than `seen` and goes in. Returns the number of workers
    /// then inside.
    fn enter(&self, seen: &mut u64, fetcher: &mut Fetcher) -> usize {
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
                if !fetcher.step(&self.wishes) {
                    std::hint::spin_loop();
                }
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

    /// Runs tasks until none is left: those of thread `me`'s own stretch, then those that others have left.
    fn work(&self, job: Job, me: usize) {
        for stretch in (0..job.stretches).map(|i| (me + i) % job.stretches) {
            let end = job.start(stretch + 1);
            loop {
                let task = self.next[stretch].0.fetch_add(1, Ordering::Relaxed);
                if task >= end {
                    break;
                }
                // SAFETY: the closure outlives the job, see `Shared`.
                let outcome = catch_unwind(AssertUnwindSafe(|| unsafe { (job.call)(job.data, task) }));
                if outcome.is_err() {
                    self.panicked.store(true, Ordering::Relaxed);
                }
            }
        }
    }
}

impl Pool {
    fn new(threads: usize) -> Self {
        let shared = Arc::new(Shared {
            gate: Padded(AtomicU64::new(EPOCH)),
            next: (0..threads.max(1)).map(|_| Padded(AtomicUsize::new(0))).collect(),
            job: UnsafeCell::new(None),
            panicked: AtomicBool::new(false),
            wishes: Wishes::default(),
            sleepers: Mutex::new(0),
            wake: Condvar::new(),
        });
        let mut workers = 0;
        for i in 1..threads {
            let shared = Arc::clone(&shared);
            let spawned = std::thread::Builder::new()
                .name(format!("roentgen-cpu-{i}"))
                .spawn(move || worker(&shared, i));
            workers += usize::from(spawned.is_ok());
        }
        Self { shared, workers, forking: Mutex::new(()) }
    }

    /// Runs the tasks on this thread and at most `limit - 1` workers: in order, or with `near` each thread in order
    /// from its own place on.
    fn run<F: Fn(usize) + Sync>(&self, tasks: usize, limit: usize, near: bool, f: &F) {
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
            stretches: if near { limit.min(self.workers + 1) } else { 1 },
            workers: limit.saturating_sub(1),
        };
        // SAFETY: the gate is closed and nobody is inside (the last `run` saw to it), and `forking` is held.
        unsafe { *shared.job.get() = Some(job) };
        for (stretch, next) in shared.next[..job.stretches].iter().enumerate() {
            next.0.store(job.start(stretch), Ordering::Relaxed);
        }
        shared.panicked.store(false, Ordering::Relaxed);
        // The gate holds the bare epoch here, so the addition sets OPEN. Release publishes the job.
        shared.gate.0.fetch_add(EPOCH + OPEN, Ordering::Release);
        if *shared.sleepers.lock().unwrap() > 0 {
            shared.wake.notify_all();
        }
        INSIDE.set(true);
        shared.work(job, 0);
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
    fork(tasks, false, &f);
}

/// As [`parallel_for`], for tasks that read neighbouring memory, each once: every thread begins with a stretch of
/// consecutive tasks of its own, which memory then sees as one long stream, and helps others when it is done.
///
/// # Panics
/// As [`parallel_for`].
pub fn parallel_for_near<F: Fn(usize) + Sync>(tasks: usize, f: F) {
    fork(tasks, true, &f);
}

/// The stretch of [`parallel_for_near`] that a task belongs to, if all threads take part.
pub fn stretch(tasks: usize, task: usize) -> Range<usize> {
    let n = threads();
    // The largest stretch that starts at the task or before.
    let i = ((task + 1) * n - 1) / tasks;
    tasks * i / n..tasks * (i + 1) / n
}

fn fork<F: Fn(usize) + Sync>(tasks: usize, near: bool, f: &F) {
    let limit = LIMIT.get();
    if tasks <= 1 || INSIDE.get() || limit <= 1 {
        return (0..tasks).for_each(f);
    }
    pool().run(tasks, limit, near, f);
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
            // SAFETY: as above.
            parallel_for_near(n, |i| unsafe { out.slice(i, 1)[0] += 1 });
            assert!(hits.iter().all(|&h| h == 2));
        }
    }

    #[test]
    fn stretches_cover_the_tasks() {
        for tasks in 1..50 {
            for task in 0..tasks {
                let range = stretch(tasks, task);
                assert!(range.contains(&task), "{task} of {tasks} in {range:?}");
            }
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
            pool.run(64, 7, round % 2 == 0, &|i| unsafe { out.slice(i, 1)[0] += 1 });
            assert!(hits.iter().all(|&h| h == round));
        }
    }

    #[test]
    fn sleeping_workers_wake() {
        let pool = Pool::new(3);
        for _ in 0..20 {
            std::thread::sleep(std::time::Duration::from_millis(2));
            let total = AtomicUsize::new(0);
            pool.run(9, 3, false, &|i| {
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
            pool.run(40, 2, true, &|_| {
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
