//! Working memory of a task, kept by its thread from call to call.

use std::cell::Cell;

/// A cache line, so that rows of whole vectors never straddle one.
#[derive(Clone, Copy, bytemuck::Pod, bytemuck::Zeroable)]
#[repr(C, align(64))]
struct Line([u32; 16]);

thread_local! {
    static LINES: Cell<Vec<Line>> = const { Cell::new(Vec::new()) };
}

/// Hands out aligned pieces. What they hold is whatever the last task left.
pub(super) struct Scratch<'a> {
    rest: &'a mut [u32],
}

impl<'a> Scratch<'a> {
    /// Runs `f` with room for pieces of these lengths, each rounded up to a cache line.
    pub(super) fn with<const N: usize, R>(lengths: [usize; N], f: impl FnOnce([&mut [u32]; N]) -> R) -> R {
        let mut lines = LINES.take();
        let wanted = lengths.iter().map(|n| n.div_ceil(16)).sum();
        if lines.len() < wanted {
            lines.resize(wanted, Line([0; 16]));
        }
        let mut scratch = Scratch { rest: bytemuck::cast_slice_mut(&mut lines) };
        let result = f(lengths.map(|n| scratch.take(n)));
        LINES.set(lines);
        result
    }

    fn take(&mut self, len: usize) -> &'a mut [u32] {
        let (piece, rest) = std::mem::take(&mut self.rest).split_at_mut(len.next_multiple_of(16));
        self.rest = rest;
        piece
    }
}

/// The same memory as f32.
pub(super) fn floats(words: &mut [u32]) -> &mut [f32] {
    bytemuck::cast_slice_mut(words)
}
