//! Work on several threads whose results come in the order of the work.

use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc::{Receiver, sync_channel};

use engine::cpu::threads::{threads, with_threads};

/// `f(0), f(1), … f(n - 1)`, on as many threads as a kernel would take.
///
/// # Panics
/// If `f` does.
pub fn map<T: Send>(n: usize, f: impl Fn(usize) -> T + Sync) -> Vec<T> {
    let next = AtomicUsize::new(0);
    let results: Vec<Mutex<Option<T>>> = (0..n).map(|_| Mutex::new(None)).collect();
    // One kernel thread each: the pool would run the tasks of all but one of them on the caller anyway.
    let work = || {
        with_threads(1, || {
            loop {
                let i = next.fetch_add(1, Ordering::Relaxed);
                let Some(result) = results.get(i) else { return };
                let value = f(i);
                // Nobody else has this index, so the lock is free and never poisoned.
                *result.lock().unwrap() = Some(value);
            }
        });
    };
    std::thread::scope(|scope| {
        for _ in 1..threads().min(n) {
            scope.spawn(work);
        }
        work();
    });
    // Every index below `n` was taken, or a panic has left the scope.
    results.into_iter().map(|result| result.into_inner().unwrap().unwrap()).collect()
}

/// Hands `make(0) … make(n - 1)`, in order, to `consume`, made on `workers` threads of which each is at most
/// `ahead` results (and the one in its hands) in front. Without workers they are made when they are asked for.
/// What `consume` leaves is not made, but for those ahead.
///
/// # Panics
/// If `make` does.
pub fn prefetch<T: Send, R>(
    n: usize,
    workers: usize,
    ahead: usize,
    make: impl Fn(usize) -> T + Sync,
    consume: impl FnOnce(&mut dyn Iterator<Item = T>) -> R,
) -> R {
    let workers = workers.min(n);
    if workers == 0 {
        return consume(&mut (0..n).map(make));
    }
    let make = &make;
    std::thread::scope(|scope| {
        let mut receivers: Vec<Receiver<T>> = Vec::new();
        for worker in 0..workers {
            let (sender, receiver) = sync_channel(ahead);
            receivers.push(receiver);
            scope.spawn(move || {
                // The pool is the step's: taking it here would make a kernel there run on one thread.
                with_threads(1, || {
                    for i in (worker..n).step_by(workers) {
                        if sender.send(make(i)).is_err() {
                            return;
                        }
                    }
                });
            });
        }
        // Moved into the iterator, so that the workers see that nobody listens any more before the scope ends.
        let mut results = (0..n).map_while(move |i| receivers[i % workers].recv().ok());
        let result = consume(&mut results);
        drop(results);
        result
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn results_come_in_order() {
        let slow = |i: usize| {
            std::thread::sleep(std::time::Duration::from_micros((i as u64 * 7919) % 500));
            i * i
        };
        let want: Vec<_> = (0..50).map(|i| i * i).collect();
        assert_eq!(map(50, slow), want);
        assert!(map(0, slow).is_empty());
        for workers in [0, 1, 3, 100] {
            assert_eq!(prefetch(50, workers, 2, slow, |r| r.collect::<Vec<_>>()), want);
        }
    }

    #[test]
    fn no_more_is_made_than_was_asked_for() {
        let made = AtomicUsize::new(0);
        let make = |i| made.fetch_add(1, Ordering::Relaxed) + i;
        let taken = prefetch(1000, 2, 3, make, |results| results.take(10).count());
        assert_eq!(taken, 10);
        // Each worker: what was taken, what waits in its channel, one in its hands.
        assert!(made.load(Ordering::Relaxed) <= 10 + 2 * (3 + 1) + 2, "{made:?}");
    }
}
