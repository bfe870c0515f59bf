use std::num::NonZero;
use std::sync::OnceLock;
use std::thread::available_parallelism;

use super::cooperative::Matrices;
use super::launch::Launch;
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
    /// Launches a product as planned.
    pub(super) fn run_product(&mut self, plan: &Plan) -> Result<()> {
        for &(name, value) in &plan.constants {
            self.constant(name, value);
        }
        let mut grid = plan.grid;
        if plan.parts > 1 {
            self.constant("PARTS", plan.parts as u32);
            grid[2] = plan.parts as u32;
        }
        self.work(plan.work).run(grid)
    }
}

/// What is done to the sum of a product's parts.
pub(super) struct Finish<'f, 'a> {
    pub(super) factor: f32,
    pub(super) bias: Option<&'f Input<'a, Wgpu>>,
}

impl Wgpu {
    pub(super) fn machine(&self) -> Machine {
        static THREADS: OnceLock<usize> = OnceLock::new();
        let threads = || *THREADS.get_or_init(|| available_parallelism().map_or(1, NonZero::get));
        let shared = self.limits.max_compute_workgroup_storage_size;
        Machine { threads: self.facts.software.then(threads), shared }
    }

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
            let cooperative = self.cooperative(&product, [a.dtype, b.dtype]);
            let kernel = match cooperative {
                Some(_) => "matmul_cooperative",
                None if product.thin() => "matmul_thin",
                None => "matmul",
            };
            let mut launch = self.kernel(kernel, MatMul::NAME);
            let (a_view, b_view) = (launch.read("a", a)?, launch.read("b", &b)?);
            let steps = |row: usize, stack: &[(usize, usize)]| -> Vec<usize> {
                stack.iter().map(|d| d.1).chain([row]).collect()
            };
            product.octs[0] = product.octs[0] && launch.wide("a", a_view.offset, &steps(a_row, &a_stack));
            product.octs[1] = product.octs[1] && launch.wide("b", b_view.offset, &steps(b_col, &b_stack));
            launch.constant("STACKED", batch > 1);
            launch.view(&View::of(a_stack.iter().copied(), a_view.offset));
            launch.view(&View::of(b_stack.iter().copied(), b_view.offset));
            let plan = match cooperative {
                Some(how) => product.plan_cooperative(how),
                None if whole => product.plan(self.machine()),
                None => product.plan(self.machine()).whole(),
            };
            let parts = self.parts(MatMul::NAME, &plan, m * n)?;
            let bias = match inputs.get(2) {
                Some(bias) if parts.is_none() => {
                    let step = bias.layout.strides[0];
                    [launch.read("bias", bias)?.offset + first * step, step]
                }
                _ => [0, 0],
            };
            match &parts {
                Some(parts) => launch.scratch("y", parts, DType::F32, Access::Whole)?,
                None => launch.output_by_rows("y", y, n.is_multiple_of(y.lanes()))?,
            };
            for word in [m, columns, k, n, first, a_row, a_col, b_row, b_col, bias[0], bias[1]] {
                launch.word(word)?;
            }
            launch.run_product(&plan)?;
            if let Some(parts) = &parts {
                let finish = Finish { factor: 1.0, bias: inputs.get(2) };
                self.sum_parts(MatMul::NAME, (parts, plan.parts), [m, n], &finish, (y.buffer, y.dtype))?;
            }
        }
        Ok(())
    }
}
