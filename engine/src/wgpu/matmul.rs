use super::Wgpu;
use super::launch::Launch;
use super::view::View;
use crate::ops::MatMul;
use crate::{Input, Kernel, Op, Output, Result};

/// Rows and columns of a workgroup's small tile in `shaders/common/gemm.wgsl`.
const TILE: usize = 64;
/// Large tiles from which on they are used.
const LARGE_TILES: usize = 16;
/// Most rows of A that the thin kernel takes.
pub(super) const THIN: usize = 8;
/// Invocations that share a column in the thin kernel: along k where that is how B lies, else columns are side by side.
const THIN_LANES: [u32; 2] = [8, 32];
/// Invocations that a large GPU needs to be busy.
const ENOUGH: usize = 1 << 15;

/// A product of `batch` matrices `[m, n]` of inner size `k`, and how its operands lie.
#[derive(Clone, Copy)]
pub(super) struct Product {
    pub(super) sizes: [usize; 4],
    /// Whether neighbours along k lie side by side in A and in B.
    pub(super) by_k: [bool; 2],
    /// Whether eight such neighbours can be loaded together.
    pub(super) octs: [bool; 2],
}

impl Product {
    /// Whether the kernel for few rows is the right one.
    pub(super) fn thin(&self) -> bool {
        self.sizes[1] <= THIN
    }
}

impl Launch<'_> {
    /// Launches a product: tiles of `shaders/common/gemm.wgsl`, or if it is thin the columns of `gemv.wgsl`.
    pub(super) fn run_product(&mut self, product: &Product) -> Result<()> {
        let ([batch, m, n, k], [_, b_by_k], [a_oct, b_oct]) = (product.sizes, product.by_k, product.octs);
        self.constant("B_BY_K", b_by_k).work(batch * m * n * k.max(1));
        if product.thin() {
            let octs = a_oct && b_oct;
            self.constant("OCT", octs);
            if octs {
                return self.run_columns(&product.sizes);
            }
            let lanes = THIN_LANES[usize::from(b_by_k)];
            self.constant("ROWS", m as u32).constant("LANES", lanes);
            return self.run([n.div_ceil((256 / lanes) as usize) as u32, 1, batch as u32]);
        }
        self.run_product_by_tiles(product)
    }

    /// Launches a kernel of few rows whose invocations take several elements at a time.
    pub(super) fn run_columns(&mut self, &[batch, m, n, k]: &[usize; 4]) -> Result<()> {
        // A GPU wants many invocations; a processor that plays one, few that do much.
        let enough = |lanes: &u32| self.software() || n * *lanes as usize >= ENOUGH;
        let lanes = [8, 16].into_iter().find(enough).unwrap_or(32);
        let each = if m <= 4 && n * lanes as usize >= ENOUGH { 2 } else { 1 };
        self.work(batch * m * n * k.max(1));
        self.constant("ROWS", m as u32).constant("LANES", lanes).constant("EACH", each);
        self.run([n.div_ceil((256 / lanes * each) as usize) as u32, 1, batch as u32])
    }

    /// As [`Self::run_product`] by tiles, however few rows there are.
    pub(super) fn run_product_by_tiles(&mut self, product: &Product) -> Result<()> {
        let ([batch, m, n, k], [a_by_k, b_by_k], [a_oct, b_oct]) =
            (product.sizes, product.by_k, product.octs);
        self.constant("B_BY_K", b_by_k).work(batch * m * n * k.max(1));
        // Larger tiles read less, where there is enough to do for all of the device.
        let tiles = if self.software() { 2 } else { LARGE_TILES };
        let large = m > TILE && n > TILE && batch * m.div_ceil(2 * TILE) * n.div_ceil(2 * TILE) >= tiles;
        let quads = if large { 2 } else { 1 };
        self.constant("A_BY_K", a_by_k).constant("ROW_QUADS", quads).constant("COL_QUADS", quads);
        self.constant("A_OCT", a_oct).constant("B_OCT", b_oct);
        let tile = TILE * quads as usize;
        self.run([n.div_ceil(tile) as u32, m.div_ceil(tile) as u32, batch as u32])
    }
}

impl Kernel<MatMul> for Wgpu {
    fn run(&self, _: &MatMul, inputs: &[Input<'_, Self>], outputs: &mut [Output<'_, Self>]) -> Result<()> {
        let (a, b, y) = (&inputs[0], &inputs[1], &outputs[0]);
        let lead = y.layout.dims.len() - 2;
        let [mut m, n] = [y.layout.dims[lead], y.layout.dims[lead + 1]];
        let k = a.layout.dims[lead + 1];
        let stack = |x: &Input<'_, Self>| -> Vec<(usize, usize)> {
            (0..lead).map(|d| (x.layout.dims[d], x.layout.strides[d])).filter(|d| d.0 != 1).collect()
        };
        let (mut a_stack, mut b_stack) = (stack(a), stack(b));
        // Matrices A that continue each other, all against one B, are one tall matrix.
        while let (Some(&(count, step)), Some(&(_, 0))) = (a_stack.last(), b_stack.last()) {
            if step != m * a.layout.strides[lead] {
                break;
            }
            m *= count;
            a_stack.pop();
            b_stack.pop();
        }
        let batch: usize = a_stack.iter().map(|d| d.0).product();
        if batch * m * n == 0 {
            return Ok(());
        }
        let (b_row, b_col) = (b.layout.strides[lead], b.layout.strides[lead + 1]);
        // A weight that cannot be bound whole goes by ranges of columns.
        let most = self.limits.max_storage_buffer_binding_size as usize / b.dtype.size();
        let whole = b.layout.span() + 256 <= most;
        let step = if whole {
            n
        } else {
            (most / b_col.max(1)).saturating_sub(k * b_row + 256).max(TILE) / TILE * TILE
        };
        for first in (0..n).step_by(step) {
            let columns = step.min(n - first);
            let part = if whole { *b.layout } else { b.layout.narrow(lead + 1, first, columns)? };
            let b = Input { layout: &part, dtype: b.dtype, buffer: b.buffer };
            let (a_row, a_col) = (a.layout.strides[lead], a.layout.strides[lead + 1]);
            let mut product = Product {
                sizes: [batch, m, columns, k],
                by_k: [a_col == 1, b_row == 1],
                octs: [a_col == 1 && k.is_multiple_of(8), b_row == 1 && k.is_multiple_of(8)],
            };
            let mut launch = self.kernel(if product.thin() { "matmul_thin" } else { "matmul" }, MatMul::NAME);
            let (a_view, b_view) = (launch.read("a", a)?, launch.read("b", &b)?);
            let steps = |row: usize, stack: &[(usize, usize)]| -> Vec<usize> {
                stack.iter().map(|d| d.1).chain([row]).collect()
            };
            product.octs[0] = product.octs[0] && launch.wide("a", a_view.offset, &steps(a_row, &a_stack));
            product.octs[1] = product.octs[1] && launch.wide("b", b_view.offset, &steps(b_col, &b_stack));
            launch.constant("STACKED", batch > 1);
            launch.view(&View::of(a_stack.iter().copied(), a_view.offset));
            launch.view(&View::of(b_stack.iter().copied(), b_view.offset));
            let bias = match inputs.get(2) {
                None => [0, 0],
                Some(bias) => {
                    let step = bias.layout.strides[0];
                    [launch.read("bias", bias)?.offset + first * step, step]
                }
            };
            let lanes = y.lanes();
            launch.output_by_rows("y", y, n.is_multiple_of(lanes))?;
            for word in [m, columns, k, n, first, a_row, a_col, b_row, b_col, bias[0], bias[1]] {
                launch.word(word)?;
            }
            launch.run_product(&product)?;
        }
        Ok(())
    }
}
