use std::sync::OnceLock;

use super::Cuda;
use super::launch::{Launch, address};
use super::view::View;
use crate::ops::MatMul;
use crate::{DType, Input, Kernel, Op, Output, Result};

/// Rows and columns of C that a block computes; one of the large kernels.
const TILE: usize = 64;
const LARGE_TILE: usize = 128;
/// Most rows for kernels that read each weight once, for all rows.
pub(super) const THIN: usize = 8;
/// Shared memory of the kernels without tensor cores; of those with, the small and the large.
const TILE_SHARED: usize = 16_640;
const MMA_SHARED: [usize; 2] = [30_720, 61_440];
/// Of those for warpgroups, by their columns: `cuda/matmul_wgmma.cu`. The narrow one loads more for each product: it is taken to be so much slower
/// where both fill the device.
const WARPGROUPS: [(&str, usize, usize, f64); 2] =
    [("wide", 256, 196_608, 1.0), ("wgmma", 128, 131_072, 0.85)];
/// Set to `1`, products run on warpgroups where the device has them and is filled; to the name of a rung, on that wherever it can. Until hardware has
/// confirmed what the emulator takes from the documentation.
const WGMMA: &str = "ROENTGEN_CUDA_WGMMA";

/// A matrix `[rows, cols]` of a stack.
struct Matrix {
    address: u64,
    rows: usize,
    cols: usize,
    row: usize,
    col: usize,
    /// `(count, stride)` of the stack's dimensions.
    stack: Vec<(usize, usize)>,
}

impl Matrix {
    fn new(x: &Input<'_, Cuda>) -> Self {
        let (dims, strides) = (&x.layout.dims, &x.layout.strides);
        let lead = dims.len() - 2;
        let stack = (0..lead).map(|d| (dims[d], strides[d])).filter(|d| d.0 != 1).collect();
        let (rows, cols) = (dims[lead], dims[lead + 1]);
        let [mut row, mut col] = [strides[lead], strides[lead + 1]];
        // The stride of a single row or column is free: the one that makes the matrix look dense.
        if cols == 1 && row != 1 {
            col = 1;
        }
        if rows == 1 {
            row = if col == 1 { cols.next_multiple_of(8) } else { 1 };
        }
        Self { address: address(x.buffer, x.layout, x.dtype), rows, cols, row, col, stack }
    }

    /// Whether rows of the contiguous dimension can be read 16 bytes at a time: `across` is its stride's, `n` its size.
    fn wide(&self, across: usize, n: usize) -> bool {
        let eights = |n: usize| n.is_multiple_of(8);
        eights(across)
            && eights(n)
            && self.stack.iter().all(|d| eights(d.1))
            && self.address.is_multiple_of(16)
    }

    /// For tensor cores: as `[rows, cols]` (`n`) or transposed (`t`), and the stride of its rows; `None` if neither can be read so.
    fn fragments(&self) -> Option<(char, usize)> {
        if self.col == 1 && self.wide(self.row, self.cols) {
            return Some(('n', self.row));
        }
        (self.row == 1 && self.wide(self.col, self.rows)).then_some(('t', self.col))
    }
}

/// How a product is cut in blocks.
pub(super) struct Tiles {
    /// Whether to take the large kernel.
    pub(super) large: bool,
    grid: [usize; 3],
    threads: u32,
}

impl Cuda {
    /// For kernels on tensor cores, of results `[batch, m, n]`: large tiles read less, where there are enough for all of the device.
    pub(super) fn tiles(&self, [batch, m, n]: [usize; 3]) -> Tiles {
        let grid = |tile| [n.div_ceil(tile), m.div_ceil(tile), batch];
        // Three of four multiprocessors with large tiles are more than all with small ones.
        let large = 4 * grid(LARGE_TILE).iter().product::<usize>() >= 3 * self.facts.multiprocessors as usize;
        let large = large && m > TILE && n > TILE;
        if large {
            Tiles { large, grid: grid(LARGE_TILE), threads: 256 }
        } else {
            Tiles { large, grid: grid(TILE), threads: 128 }
        }
    }
}

impl Cuda {
    /// The rung for warpgroups of `[batch, m, n]`, its grid and shared memory: the one of which the device does most at a time, if it
    /// fills half of it.
    fn warpgroups(&self, [batch, m, n]: [usize; 3]) -> Option<(&'static str, [usize; 3], usize)> {
        static ASKED: OnceLock<Option<String>> = OnceLock::new();
        let asked = ASKED.get_or_init(|| {
            let value = std::env::var(WGMMA).ok().filter(|v| !v.is_empty() && v != "0")?;
            if value != "1" && WARPGROUPS.iter().all(|(rung, ..)| *rung != value) {
                tracing::warn!("{WGMMA}={value} is passed over: it can be 0, 1, wide or wgmma");
            }
            Some(value)
        });
        let asked = asked.as_deref();
        let asked = asked.filter(|_| self.facts.capability[0] == 9 && m > TILE)?;
        let multiprocessors = self.facts.multiprocessors as usize;
        let rungs = WARPGROUPS.iter().filter(|(_, columns, ..)| n > columns / 2);
        let named = |rung: &str| rung == asked;
        let rungs = rungs.map(|&(rung, columns, shared, rate)| {
            let grid = [n.div_ceil(columns), m.div_ceil(LARGE_TILE), batch];
            let blocks = grid.iter().product::<usize>();
            let busy = blocks as f64 / blocks.next_multiple_of(multiprocessors) as f64;
            (rate * busy, blocks, (rung, grid, shared))
        });
        rungs
            .filter(|&(_, blocks, (rung, ..))| named(rung) || (asked == "1" && 2 * blocks >= multiprocessors))
            .max_by(|a, b| a.0.total_cmp(&b.0))
            .map(|(.., rung)| rung)
    }
}

impl Launch<'_> {
    /// A product on tensor cores, with so much shared memory in the small and the large kernel.
    pub(super) fn run_tiles(&mut self, tiles: &Tiles, shared: [usize; 2]) -> Result<()> {
        self.run(tiles.grid, [tiles.threads, 1], shared[usize::from(tiles.large)])
    }

    /// A product of `[batch, m, n]` without.
    pub(super) fn run_simple(&mut self, [batch, m, n]: [usize; 3]) -> Result<()> {
        self.run([n.div_ceil(TILE), m.div_ceil(TILE), batch], [256, 1], TILE_SHARED)
    }
}

impl Kernel<MatMul> for Cuda {
    fn run(&self, _: &MatMul, inputs: &[Input<'_, Self>], outputs: &mut [Output<'_, Self>]) -> Result<()> {
        let name = MatMul::NAME;
        let (x, y) = (&inputs[0], &outputs[0]);
        let (mut a, mut b) = (Matrix::new(x), Matrix::new(&inputs[1]));
        // Matrices A that continue each other, all against one B, are one tall matrix.
        while let (Some(&(count, step)), Some(&(_, 0))) = (a.stack.last(), b.stack.last()) {
            if step != a.rows * a.row {
                break;
            }
            a.rows *= count;
            a.stack.pop();
            b.stack.pop();
        }
        let batch: usize = a.stack.iter().map(|d| d.0).product();
        let [m, n, k] = [a.rows, b.cols, a.cols];
        if batch * m * n == 0 {
            return Ok(());
        }
        let bias = inputs.get(2).map(|bias| self.dense(name, bias)).transpose()?;
        let thin = m <= THIN && a.col == 1 && b.row == 1 && a.wide(a.row, k) && b.wide(b.col, k);
        let fragments = a.fragments().zip(b.fragments()).filter(|_| x.dtype == DType::BF16);
        let tiles = self.tiles([batch, m, n]);
        let warpgroups = fragments.and_then(|_| self.warpgroups([batch, m, n]));
        let types = format!("{}_{}", x.dtype, y.dtype);
        let (entry, strides) = match fragments {
            _ if thin => (format!("matmul_gemv_{types}"), vec![a.row, b.col]),
            Some(((a_way, lda), (b_way, ldb))) => {
                let simple = if tiles.large { "large" } else { "mma" };
                let rung = warpgroups.map_or(simple, |(rung, ..)| rung);
                (format!("matmul_{rung}_{a_way}{b_way}_{}", y.dtype), vec![lda, ldb])
            }
            None => (format!("matmul_tile_{types}"), vec![a.row, a.col, b.row, b.col]),
        };
        let source = if warpgroups.is_some() && !thin { "matmul_wgmma" } else { name };
        let mut launch = self.kernel(source, entry, name);
        launch.output(y).at(a.address).at(b.address).at(bias.as_ref().map_or(0, |bias| bias.address));
        for stack in [&a.stack, &b.stack] {
            launch.layout(&View::of(stack.iter().copied()).words());
        }
        launch.fits(x.layout.span()).fits(inputs[1].layout.span()).fits(y.layout.count());
        launch.words(&[batch, m, n, k]).words(&strides);
        if thin {
            return launch.run([n.div_ceil(4), batch, 1], [128, 1], 0);
        }
        if let Some((_, grid, shared)) = warpgroups {
            launch.run(grid, [256, 1], shared)
        } else if fragments.is_some() {
            launch.run_tiles(&tiles, MMA_SHARED)
        } else {
            launch.run_simple([batch, m, n])
        }
    }
}
