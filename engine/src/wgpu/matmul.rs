use std::num::NonZero;
use std::thread::available_parallelism;

use super::cooperative::Matrices;
use super::launch::{BIND_ALIGN, Launch};
use super::source::{Access, Value};
use super::view::View;
use super::{Wgpu, WgpuBuffer};
use crate::ops::MatMul;
use crate::{DType, Input, Kernel, Op, Output, Result};

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

/// Invocations of a workgroup.
const GROUP: usize = 256;
/// Least terms of a part, and most parts.
const PART_TERMS: usize = 256;
const PARTS: usize = 32;

/// A product of `batch` matrices `[m, n]` of inner size `k`, and how its operands lie.
#[derive(Clone, Copy)]
pub(super) struct Product {
    pub(super) sizes: [usize; 4],
    /// Whether neighbours along k lie side by side in A and in B.
    pub(super) by_k: [bool; 2],
    /// Whether eight such neighbours can be loaded together.
    pub(super) octs: [bool; 2],
}

/// What products are cut for.
#[derive(Clone, Copy)]
pub(super) struct Machine {
    /// Threads, if it is the processor playing a GPU.
    threads: Option<usize>,
    /// Bytes of workgroup memory.
    shared: u32,
    /// Most multiply-adds of one dispatch.
    dispatch: usize,
}

impl Machine {
    pub(super) fn new(processor: bool, shared: u32, dispatch: usize) -> Self {
        let threads = processor.then(|| available_parallelism().map_or(1, NonZero::get));
        Self { threads, shared, dispatch }
    }

    /// Pieces of `rows` rows of workgroups that do `work` in all: first and count.
    fn row_tiles(&self, rows: u32, work: usize) -> impl Iterator<Item = [u32; 2]> {
        let each = work.div_ceil(rows.max(1) as usize).max(1);
        let step = u32::try_from((self.dispatch / each).max(1)).unwrap_or(u32::MAX);
        (0..rows).step_by(step as usize).map(move |first| [first, step.min(rows - first)])
    }
}

/// Tiles of so many quads across `n` elements.
fn tiles(n: usize, quads: u32) -> u32 {
    n.div_ceil(TILE * quads as usize) as u32
}

fn groups_of([batch, m, n]: [usize; 3], [rows, cols]: [u32; 2]) -> usize {
    batch * tiles(m, rows) as usize * tiles(n, cols) as usize
}

/// Quads of rows and columns of a tile for a processor that plays a GPU: those by which its threads are done first. Its loads of workgroup memory
/// go lane by lane, so it wants more sums for each than a GPU has registers for: a quad of sums costs about half of what loading one of
/// A or of B does.
fn tile_for_processor(sizes: [usize; 3], threads: usize) -> [u32; 2] {
    let time = |&[rows, cols]: &[u32; 2]| {
        let rounds = groups_of(sizes, [rows, cols]).div_ceil(threads);
        rounds * (rows * cols + 2 * (rows + cols)) as usize
    };
    // Of equal ones the smaller tile.
    let shapes = (1..=2).flat_map(|rows| (1..=5).map(move |cols| [rows, cols]));
    shapes.min_by_key(time).unwrap_or([1, 1])
}

/// How a product is cut into workgroups.
#[derive(Debug)]
pub(super) struct Plan {
    constants: Vec<(&'static str, Value)>,
    grid: [u32; 3],
    work: usize,
    /// Parts along k: with several the kernel's output is f32 `[parts, m, n]`, for [`Wgpu::sum_parts`].
    pub(super) parts: usize,
}

impl Product {
    /// Whether the kernel for few rows is the right one.
    pub(super) fn thin(&self) -> bool {
        self.sizes[1] <= THIN
    }

    /// As tiles of `shaders/common/gemm.wgsl`, or if it is thin the columns of `gemv.wgsl`.
    pub(super) fn plan(&self, machine: Machine) -> Plan {
        let ([batch, m, n, _], b_by_k) = (self.sizes, self.by_k[1]);
        if !self.thin() {
            return self.plan_tiles(machine);
        }
        let octs = self.octs[0] && self.octs[1];
        if octs {
            let mut plan = self.plan_columns(machine);
            plan.constants.extend([("OCT", true.into()), ("B_BY_K", b_by_k.into())]);
            return plan;
        }
        let lanes = THIN_LANES[usize::from(b_by_k)];
        let constants = vec![
            ("B_BY_K", b_by_k.into()),
            ("OCT", false.into()),
            ("ROWS", (m as u32).into()),
            ("LANES", lanes.into()),
        ];
        self.cut(constants, [n.div_ceil((256 / lanes) as usize) as u32, 1, batch as u32], machine)
    }

    /// As columns, for a kernel of few rows whose invocations take several elements at a time.
    pub(super) fn plan_columns(&self, machine: Machine) -> Plan {
        let [batch, m, n, _] = self.sizes;
        // A GPU wants many invocations; a processor that plays one, few that do much.
        let enough = |lanes: &u32| machine.threads.is_some() || n * *lanes as usize >= ENOUGH;
        let lanes = [8, 16].into_iter().find(enough).unwrap_or(32);
        let each = if m <= 4 && n * lanes as usize >= ENOUGH { 2 } else { 1 };
        let constants =
            vec![("ROWS", (m as u32).into()), ("LANES", lanes.into()), ("EACH", Value::Number(each))];
        self.cut(constants, [n.div_ceil((256 / lanes * each) as usize) as u32, 1, batch as u32], machine)
    }

    /// As tiles, however few rows there are.
    pub(super) fn plan_tiles(&self, machine: Machine) -> Plan {
        let ([batch, m, n, _], [a_by_k, b_by_k], [a_oct, b_oct]) = (self.sizes, self.by_k, self.octs);
        let [rows, cols] = if let Some(threads) = machine.threads {
            tile_for_processor([batch, m, n], threads)
        } else {
            // Larger tiles read less, where there is enough to do for all of the device.
            let large = m > TILE && n > TILE && groups_of([batch, m, n], [2, 2]) >= LARGE_TILES;
            if large { [2, 2] } else { [1, 1] }
        };
        let depth = [16, 8].into_iter().find(|depth| 256 * (rows + cols) * depth <= machine.shared);
        let constants = vec![
            ("A_BY_K", a_by_k.into()),
            ("B_BY_K", b_by_k.into()),
            ("ROW_QUADS", rows.into()),
            ("COL_QUADS", cols.into()),
            ("DEPTH", depth.unwrap_or(8).into()),
            ("A_OCT", a_oct.into()),
            ("B_OCT", b_oct.into()),
        ];
        self.cut(constants, [tiles(n, cols), tiles(m, rows), batch as u32], machine)
    }

    /// As tiles by cooperative matrices, read as [`Wgpu::cooperative`] says.
    pub(super) fn plan_cooperative(&self, (matrices, turned): (Matrices, bool)) -> Plan {
        let ([batch, m, n, k], [a_by_k, b_by_k]) = (self.sizes, self.by_k);
        let constants = vec![
            ("A_BY_K", a_by_k.into()),
            ("B_BY_K", b_by_k.into()),
            ("EIGHT", (matrices == Matrices::F32x8).into()),
            // Metal has subgroups without saying of how many, which other kernels must know.
            ("SUBGROUPS", true.into()),
            ("TURNED", turned.into()),
        ];
        let grid = [n.div_ceil(TILE) as u32, m.div_ceil(TILE) as u32, batch as u32];
        Plan { constants, grid, work: batch * m * n * k.max(1), parts: 1 }
    }

    /// Cuts along k where one matrix alone leaves the device idle.
    fn cut(&self, constants: Vec<(&'static str, Value)>, grid: [u32; 3], machine: Machine) -> Plan {
        let [batch, m, n, k] = self.sizes;
        let groups = grid.iter().map(|&g| g as usize).product::<usize>();
        let few = machine.threads.unwrap_or(ENOUGH / GROUP);
        let wanted = few / groups.max(1);
        let parts = if batch == 1 { wanted.min(k / PART_TERMS).min(PARTS) } else { 1 };
        Plan { constants, grid, work: batch * m * n * k.max(1), parts: parts.max(1) }
    }
}

impl Plan {
    /// The same, whole: for a product whose result does not go through [`Wgpu::sum_parts`].
    pub(super) fn whole(self) -> Self {
        Self { parts: 1, ..self }
    }
}

impl Launch<'_> {
    /// Launches a product as planned: at once, or if that would keep a slow device busy for longer than watchdogs wait, by rows of
    /// workgroups.
    pub(super) fn run_product(&mut self, plan: &Plan) -> Result<()> {
        for &(name, value) in &plan.constants {
            self.constant(name, value);
        }
        let [across, down, mut deep] = plan.grid;
        if plan.parts > 1 {
            self.constant("PARTS", plan.parts as u32);
            deep = plan.parts as u32;
        }
        for [first, rows] in self.machine().row_tiles(down, plan.work) {
            self.set_row_tile(first);
            let work = plan.work / down as usize * rows as usize;
            self.work(work.max(1)).run([across, rows, deep])?;
        }
        Ok(())
    }
}

/// What is done to the sum of a product's parts.
pub(super) struct Finish<'f, 'a> {
    pub(super) factor: f32,
    pub(super) bias: Option<&'f Input<'a, Wgpu>>,
}

impl Wgpu {
    /// Room for a product's parts, `[parts, count]` f32; `None` if there is one.
    pub(super) fn parts(&self, op: &'static str, plan: &Plan, count: usize) -> Result<Option<WgpuBuffer>> {
        (plan.parts > 1).then(|| self.temporary(op, plan.parts * count * 4)).transpose()
    }

    /// `y [rows, n] = factor · Σ parts (+ bias)`, in the order of the parts.
    pub(super) fn sum_parts<'a>(
        &'a self,
        op: &'static str,
        (parts, number): (&'a WgpuBuffer, usize),
        [rows, n]: [usize; 2],
        finish: &Finish<'_, 'a>,
        y: (&'a WgpuBuffer, DType),
    ) -> Result<()> {
        let mut k = self.kernel("split_sum", op);
        k.scratch("partial", parts, DType::F32, Access::Read)?;
        let bias = match finish.bias {
            Some(bias) => [k.read("bias", bias)?.offset, bias.layout.strides[0]],
            None => [0; 2],
        };
        k.bind("y", y.0, y.1, Access::Whole, 0, rows * n)?;
        for word in [rows * n, n, number, bias[0], bias[1]] {
            k.word(word)?;
        }
        k.float(finish.factor).work(rows * n * number);
        k.run_elements(rows * n, 4 / y.1.size())
    }
}

/// Pieces of a product whose B cannot be bound whole.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Pieces {
    One,
    /// Of so many columns.
    Columns(usize),
    /// Of so many terms of each sum: their sums are added afterwards.
    Terms(usize),
}

impl Pieces {
    /// For a B `[k, n]` with these steps from row to row and from column to column, where `most` elements can be bound.
    fn of([k, n]: [usize; 2], [row, col]: [usize; 2], span: usize, most: usize) -> Self {
        // A binding begins up to 256 bytes before what is read.
        let most = most.saturating_sub(BIND_ALIGN);
        if span <= most {
            return Self::One;
        }
        let columns = most.saturating_sub(k.saturating_sub(1) * row) / col.max(1) / TILE * TILE;
        let terms = most.saturating_sub(n.saturating_sub(1) * col) / row.max(1) / 8 * 8;
        match (columns, terms) {
            (1.., _) => Self::Columns(columns),
            (_, 1..) => Self::Terms(terms),
            // Binding it says what is wrong.
            _ => Self::One,
        }
    }
}

/// A stack of products: what lies where, and one piece of it.
struct Stacked<'p, 'a> {
    op: &'p [Input<'a, Wgpu>],
    /// Dimensions before the matrices of B, and of A.
    lead: usize,
    /// Sizes and steps of the stacks of A and of B, dimension by dimension.
    stacks: [Vec<(usize, usize)>; 2],
    sizes: [usize; 4],
}

/// Columns and terms of one launch: first and count.
#[derive(Clone, Copy)]
struct Piece {
    columns: [usize; 2],
    terms: [usize; 2],
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
        let all = Stacked { op: inputs, lead, stacks: [a_stack, b_stack], sizes: [batch, m, n, k] };
        let most = self.limits.max_storage_buffer_binding_size as usize / b.dtype.size();
        let steps = [b.layout.strides[lead], b.layout.strides[lead + 1]];
        match Pieces::of([k, n], steps, b.layout.span(), most) {
            Pieces::One => self.piece(&all, Piece { columns: [0, n], terms: [0, k] }, None, y),
            Pieces::Columns(step) => (0..n).step_by(step).try_for_each(|first| {
                let columns = [first, step.min(n - first)];
                self.piece(&all, Piece { columns, terms: [0, k] }, None, y)
            }),
            Pieces::Terms(step) => {
                let count = k.div_ceil(step);
                let sums = self.temporary(MatMul::NAME, count * batch * m * n * 4)?;
                for i in 0..count {
                    let terms = [i * step, step.min(k - i * step)];
                    self.piece(&all, Piece { columns: [0, n], terms }, Some((&sums, i)), y)?;
                }
                let finish = Finish { factor: 1.0, bias: inputs.get(2) };
                self.sum_parts(MatMul::NAME, (&sums, count), [batch * m, n], &finish, (y.buffer, y.dtype))
            }
        }
    }
}

impl Wgpu {
    /// Launches one piece of a product; into place `i` of `sums [pieces, batch·m, n]`, or into `y` with the bias.
    fn piece(
        &self,
        all: &Stacked<'_, '_>,
        piece: Piece,
        sums: Option<(&WgpuBuffer, usize)>,
        y: &Output<'_, Self>,
    ) -> Result<()> {
        let (inputs, lead) = (all.op, all.lead);
        let ([batch, m, n, k], [a_stack, b_stack]) = (all.sizes, &all.stacks);
        let (Piece { columns: [first, columns], terms: [from, terms] }, [a, b]) =
            (piece, [&inputs[0], &inputs[1]]);
        let a_part = a.layout.narrow(lead + 1, from, terms)?;
        let b_part = b.layout.narrow(lead, from, terms)?.narrow(lead + 1, first, columns)?;
        let a = Input { layout: &a_part, dtype: a.dtype, buffer: a.buffer };
        let b = Input { layout: &b_part, dtype: b.dtype, buffer: b.buffer };
        let [a_row, a_col] = [a.layout.strides[lead], a.layout.strides[lead + 1]];
        let [b_row, b_col] = [b.layout.strides[lead], b.layout.strides[lead + 1]];
        let mut product = Product {
            sizes: [batch, m, columns, terms],
            by_k: [a_col == 1, b_row == 1],
            octs: [a_col == 1 && terms.is_multiple_of(8), b_row == 1 && terms.is_multiple_of(8)],
        };
        let cooperative = self.cooperative(&product, [a.dtype, b.dtype]);
        let kernel = match cooperative {
            Some(_) => "matmul_cooperative",
            None if product.thin() => "matmul_thin",
            None => "matmul",
        };
        let mut launch = self.kernel(kernel, MatMul::NAME);
        let (a_view, b_view) = (launch.read("a", &a)?, launch.read("b", &b)?);
        let steps = |row: usize, stack: &[(usize, usize)]| -> Vec<usize> {
            stack.iter().map(|d| d.1).chain([row]).collect()
        };
        product.octs[0] = product.octs[0] && launch.wide("a", a_view.offset, &steps(a_row, a_stack));
        product.octs[1] = product.octs[1] && launch.wide("b", b_view.offset, &steps(b_col, b_stack));
        launch.constant("STACKED", batch > 1);
        launch.view(&View::of(a_stack.iter().copied(), a_view.offset));
        launch.view(&View::of(b_stack.iter().copied(), b_view.offset));
        let whole = columns == n && terms == k;
        let plan = match cooperative {
            Some(how) => product.plan_cooperative(how),
            None if whole => product.plan(self.machine),
            None => product.plan(self.machine).whole(),
        };
        let parts = self.parts(MatMul::NAME, &plan, m * n)?;
        let bias = match inputs.get(2) {
            Some(bias) if parts.is_none() && sums.is_none() => {
                let step = bias.layout.strides[0];
                [launch.read("bias", bias)?.offset + first * step, step]
            }
            _ => [0, 0],
        };
        let out = match (&parts, sums) {
            (Some(parts), _) => {
                launch.scratch("y", parts, DType::F32, Access::Whole)?;
                0
            }
            (None, Some((sums, i))) => {
                launch.bind("y", sums, DType::F32, Access::Whole, i * batch * m * n, batch * m * n)?
            }
            (None, None) => {
                launch.output_by_rows("y", y, n.is_multiple_of(y.lanes()))?;
                first
            }
        };
        for word in [m, columns, terms, n, out] {
            launch.word(word)?;
        }
        launch.row_tile()?;
        for word in [a_row, a_col, b_row, b_col, bias[0], bias[1]] {
            launch.word(word)?;
        }
        launch.run_product(&plan)?;
        let Some(parts) = &parts else { return Ok(()) };
        let finish = Finish { factor: 1.0, bias: inputs.get(2) };
        self.sum_parts(MatMul::NAME, (parts, plan.parts), [m, n], &finish, (y.buffer, y.dtype))
    }
}

#[cfg(test)]
mod tests {
    use super::{Machine, Pieces};

    #[test]
    fn a_matrix_that_cannot_be_bound_goes_by_columns_or_by_terms() {
        let (k, n) = (49_280, 2_048);
        // 128 MiB of bf16.
        let most = 64 << 20;
        // Row by row, as dx = dy·W reads it; column by column, as y = x·Wᵀ does.
        let rows = Pieces::of([k, n], [n, 1], k * n, most);
        assert_eq!(rows, Pieces::Terms(32_760));
        assert_eq!(Pieces::of([n, k], [1, n], k * n, most), Pieces::Columns(32_704));
        assert_eq!(Pieces::of([k, n], [n, 1], k * n, 2 * most), Pieces::One);
    }

    #[test]
    fn one_dispatch_is_at_most_so_much_work() {
        let machine = Machine { threads: None, shared: 16384, dispatch: 1000 };
        let pieces = |rows, work| machine.row_tiles(rows, work).collect::<Vec<_>>();
        assert_eq!(pieces(5, 1000), [[0, 5]]);
        assert_eq!(pieces(5, 2000), [[0, 2], [2, 2], [4, 1]]);
        assert_eq!(pieces(3, 9000), [[0, 1], [1, 1], [2, 1]]);
        assert!(pieces(0, 0).is_empty());
    }
}
