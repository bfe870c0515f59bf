//! What went wrong on the device, as its callbacks tell it, and waiting for a device that may be gone.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};

use ::wgpu;

use super::adapter::block_on;
use crate::error::{Error, Result};

#[derive(Default)]
struct Told {
    first: Option<String>,
    lost: Option<String>,
}

/// What went wrong on a device.
#[derive(Default)]
pub(super) struct Problems {
    any: AtomicBool,
    told: Mutex<Told>,
}

impl Problems {
    /// An error that no call returned.
    pub(super) fn note(&self, text: String) {
        self.told.lock().unwrap().first.get_or_insert(text);
        self.any.store(true, Ordering::Release);
    }

    /// The device is gone.
    pub(super) fn lose(&self, text: &str) {
        let text = if text.is_empty() { "it was destroyed" } else { text };
        self.told.lock().unwrap().lost.get_or_insert_with(|| text.into());
        self.any.store(true, Ordering::Release);
    }

    /// An error if the device is gone: `doing` says what could not be done.
    pub(super) fn alive(&self, doing: impl FnOnce() -> String) -> Result<()> {
        if !self.any.load(Ordering::Acquire) {
            return Ok(());
        }
        match &self.told.lock().unwrap().lost {
            None => Ok(()),
            Some(text) => Err(Error::Device(format!(
                "wgpu: {}: the GPU was lost ({text}), and with it all that was in its memory. Start again; training \
                 goes on from its last checkpoint with --resume",
                doing()
            ))),
        }
    }

    /// An error if the device reported one: `doing` as for [`Self::alive`], `hint` follows what was reported.
    pub(super) fn check(&self, doing: impl FnOnce() -> String, hint: impl FnOnce() -> String) -> Result<()> {
        if !self.any.load(Ordering::Acquire) {
            return Ok(());
        }
        self.alive(doing)?;
        match &self.told.lock().unwrap().first {
            None => Ok(()),
            Some(text) => Err(Error::Device(format!("wgpu: {text} ({})", hint()))),
        }
    }
}

/// What `f` makes, and what the device reported meanwhile, of any kind: a kernel that the driver's compiler refuses is an
/// internal error, not one of validation. What is told here is not held against the device.
pub(super) fn watched<T>(device: &wgpu::Device, f: impl FnOnce() -> T) -> (T, Option<wgpu::Error>) {
    use wgpu::ErrorFilter::{Internal, OutOfMemory, Validation};
    let scopes = [OutOfMemory, Internal, Validation].map(|filter| device.push_error_scope(filter));
    let made = f();
    // The inner scope first; all must end.
    let errors = scopes.into_iter().rev().map(|scope| block_on(scope.pop()));
    (made, errors.collect::<Vec<_>>().into_iter().flatten().next())
}

/// What `f` gives; a panic of the driver's layer is an error.
fn guarded<T, E: std::fmt::Display>(f: impl FnOnce() -> Result<T, E>) -> Result<T, String> {
    match catch_unwind(AssertUnwindSafe(f)) {
        Ok(result) => result.map_err(|e| e.to_string()),
        Err(_) => Err("its driver failed".into()),
    }
}

/// Waits, or looks after callbacks. wgpu panics where a wait ends because the device is gone.
pub(super) fn poll(device: &wgpu::Device, how: wgpu::PollType) -> Result<(), String> {
    let result = guarded(|| device.poll(how));
    if result.is_err() {
        // A device that was lost meanwhile says so to those who look.
        let _ = guarded(|| device.poll(wgpu::PollType::Poll));
    }
    result.map(drop)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_panic_of_the_driver_is_an_error() {
        assert_eq!(guarded(|| Ok::<_, String>(7)), Ok(7));
        assert_eq!(guarded(|| Err::<(), _>("late")), Err("late".into()));
        let panics = || -> Result<(), String> { panic!("lost in a wait") };
        assert_eq!(guarded(panics), Err("its driver failed".into()));
    }

    #[test]
    fn a_loss_is_told_before_what_it_led_to() {
        let problems = Problems::default();
        assert!(problems.alive(|| "matmul".into()).is_ok());
        problems.note("a buffer is invalid".into());
        assert!(problems.alive(|| "matmul".into()).is_ok());
        let noted = problems.check(|| "matmul".into(), || "in a batch".into()).unwrap_err().to_string();
        assert!(noted.contains("a buffer is invalid (in a batch)"), "{noted}");
        problems.lose("");
        let lost = problems.check(|| "matmul".into(), || "in a batch".into()).unwrap_err().to_string();
        assert!(lost.contains("wgpu: matmul: the GPU was lost (it was destroyed)"), "{lost}");
        assert!(lost.contains("--resume"), "{lost}");
    }
}
