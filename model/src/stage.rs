//! Named intermediate results, for comparison with a reference.
//!
//! Models call [`stage`] at the places that `parity` compares; nothing happens unless a collector is
//! installed on this thread with [`collect`].

use std::cell::RefCell;

use engine::Tensor;

type Collected = Vec<(String, Tensor)>;

thread_local! {
    static COLLECTOR: RefCell<Option<Collected>> = const { RefCell::new(None) };
}

/// Offers an intermediate result; `name` is built only if someone collects.
pub fn stage(name: impl FnOnce() -> String, tensor: &Tensor) {
    COLLECTOR.with_borrow_mut(|collector| {
        if let Some(stages) = collector {
            stages.push((name(), tensor.detach()));
        }
    });
}

/// Runs `f` and returns the stages it passed, in order, with its result.
pub fn collect<R>(f: impl FnOnce() -> R) -> (R, Vec<(String, Tensor)>) {
    let outer = COLLECTOR.replace(Some(Vec::new()));
    let result = f();
    let stages = COLLECTOR.replace(outer);
    (result, stages.unwrap_or_default())
}
