use super::launch::Launch;
use super::matmul::{Finish, Product, THIN};
use super::source::Access;
use super::{Wgpu, WgpuBuffer};
use crate::ops::{Dropout, LinearNf4, LinearNf4Grad, LinearNf4Group};
use crate::quantized::BlockFormat;
use crate::{DType, Input, Kernel, Op, Output, Result};

/// A matrix of one of the adapter's small products.
#[derive(Clone, Copy)]
struct Operand<'a> {
    buffer: &'a WgpuBuffer,
    dtype: DType,
    /// First element, rows, columns, and the steps along them.
    at: usize,
    dims: [usize; 2],
    strides: [usize; 2],
}

impl<'a> Operand<'a> {
    fn new(x: &Input<'a, Wgpu>) -> Self {
        let (dims, strides) = (&x.layout.dims, &x.layout.strides);
        Self {
            buffer: x.buffer,
            dtype: x.dtype,
            at: x.layout.offset,
            dims: [dims[0], dims[1]],
            strides: [strides[0], strides[1]],
        }
    }

    fn dense(buffer: &'a WgpuBuffer, dtype: DType, dims: [usize; 2]) -> Self {
        Self { buffer, dtype, at: 0, dims, strides: [dims[1], 1] }
    }

    fn t(self) -> Self {
        let ([a, b], [c, d]) = (self.dims, self.strides);
        Self { dims: [b, a], strides: [d, c], ..self }
    }

    fn bind(&self, k: &mut Launch<'a>, name: &'static str) -> Result<usize> {
        let span = match self.dims {
            [0, _] | [_, 0] => 0,
            [m, n] => 1 + (m - 1) * self.strides[0] + (n - 1) * self.strides[1],
        };
        k.bind(name, self.buffer, self.dtype, Access::Read, self.at, span)
    }
}

/// What happens to operands and result of a small product: `shaders/common/lora.wgsl`.
#[derive(Clone, Copy, Default)]
struct Small<'a> {
    /// Elements of b are multiplied with this and rounded.
    scale_b: Option<f32>,
    drop_a: Option<&'a Dropout>,
    drop_b: Option<&'a Dropout>,
    /// The result goes through this dropout and is added to what is there.
    add: Option<&'a Dropout>,
    /// Multiplies the result.
    factor: f32,
}

impl Wgpu {
    fn small_product(
        &self,
        op: &'static str,
        a: &Operand<'_>,
        b: &Operand<'_>,
        y: (&WgpuBuffer, DType),
        what: Small<'_>,
    ) -> Result<()> {
        let ([m, k], n) = (a.dims, b.dims[1]);
        if m * n == 0 {
            return Ok(());
        }
        let thin = m <= THIN;
        let mut launch = self.kernel(if thin { "lora_thin" } else { "lora" }, op);
        launch.constant("ROUND_B", what.scale_b.is_some()).constant("ADD", what.add.is_some());
        launch.constant("DROP_A", what.drop_a.is_some()).constant("DROP_B", what.drop_b.is_some());
        let (a_at, b_at) = (a.bind(&mut launch, "a")?, b.bind(&mut launch, "b")?);
        let by_k = [a.strides[1] == 1, b.strides[0] == 1];
        let product = Product { sizes: [1, m, n, k], by_k, octs: [false; 2] };
        let plan = product.plan(self.machine);
        let plan = if what.add.is_some() { plan.whole() } else { plan };
        let parts = self.parts(op, &plan, m * n)?;
        if let Some(parts) = &parts {
            launch.scratch("y", parts, DType::F32, Access::Whole)?;
        } else {
            let aligned = n.is_multiple_of(4 / y.1.size());
            let access = if aligned { Access::Whole } else { Access::Shared };
            launch.bind("y", y.0, y.1, access, 0, m * n)?;
        }
        for word in [m, n, k, n, 0] {
            launch.word(word)?;
        }
        launch.row_tile()?;
        for word in [a_at, a.strides[0], a.strides[1], b_at, b.strides[0], b.strides[1]] {
            launch.word(word)?;
        }
        let factor = if parts.is_some() { 1.0 } else { what.factor };
        launch.float(what.scale_b.unwrap_or(1.0)).float(factor);
        let none = Dropout { p: 0.0, seed: 0 };
        launch.dropout(what.drop_a.or(what.drop_b).or(what.add).unwrap_or(&none))?;
        launch.run_product(&plan)?;
        let Some(parts) = &parts else { return Ok(()) };
        let finish = Finish { factor: what.factor, bias: None };
        self.sum_parts(op, (parts, plan.parts), [m, n], &finish, y)
    }
}

impl Kernel<LinearNf4> for Wgpu {
    fn run(
        &self,
        op: &LinearNf4,
        inputs: &[Input<'_, Self>],
        outputs: &mut [Output<'_, Self>],
    ) -> Result<()> {
        let name = LinearNf4::NAME;
        let places = op.places();
        let (x, y) = (&inputs[0], &outputs[0]);
        let rows = x.layout.dims[0];
        let mut rank = 0;
        if let (Some(term), Some(at)) = (&op.lora, places.a) {
            let (a, h) = (Operand::new(&inputs[at]), &outputs[1]);
            rank = a.dims[0];
            let what =
                Small { scale_b: Some(1.0), drop_a: term.dropout.as_ref(), factor: 1.0, ..Small::default() };
            self.small_product(name, &Operand::new(x), &a.t(), (h.buffer, h.dtype), what)?;
        }
        let low = places.a.map(|at| {
            let h = &outputs[1];
            (Operand::dense(h.buffer, h.dtype, [rows, rank]), Operand::new(&inputs[at + 1]))
        });
        let scale = op.lora.map_or(1.0, |term| term.scale);
        let layer = Layer {
            weight: &inputs[1..=places.weight],
            format: &op.format,
            outer: op.outer,
            bias: places.bias.map(|at| &inputs[at]),
            low,
            scale,
        };
        self.product(name, x, &layer, y)
    }
}

/// What `x` is multiplied with.
struct Layer<'l, 'a> {
    weight: &'l [Input<'a, Wgpu>],
    format: &'l BlockFormat,
    outer: usize,
    bias: Option<&'l Input<'a, Wgpu>>,
    /// `dropout(x)·Aᵀ [rows, r]` and B.
    low: Option<(Operand<'a>, Operand<'a>)>,
    scale: f32,
}

impl Wgpu {
    /// `y = [x | h]·[W | scale·B]ᵀ (+ bias)`
    fn product(
        &self,
        name: &'static str,
        x: &Input<'_, Self>,
        layer: &Layer<'_, '_>,
        y: &Output<'_, Self>,
    ) -> Result<()> {
        let (rows, inner, outer) = (x.layout.dims[0], x.layout.dims[1], layer.outer);
        if rows * outer == 0 {
            return Ok(());
        }
        let dense = self.dense_inputs(name, layer.weight)?;
        let weight = dense.inputs(layer.weight);
        let packed = self.packed(name, layer.format, &weight)?;
        let rank = layer.low.map_or(0, |(h, _)| h.dims[1]);
        // Eight codes are a word of one block; sixteen bytes of them, 32 codes, are read at once.
        let by = |n: usize| [inner, layer.format.block].iter().all(|d| d.is_multiple_of(n));
        let (codes, [row, step]) = (&weight[0].layout, [x.layout.strides[0], x.layout.strides[1]]);
        let decode = rows <= THIN && step == 1 && by(32) && codes.offset.is_multiple_of(16);
        let sizes = [1, rows, outer, inner + rank];
        let mut product = Product { sizes, by_k: [step == 1, true], octs: [false; 2] };
        // Values of the weight are rounded to the type of x.
        let cooperative = self.cooperative(&product, [x.dtype; 2]);
        let kernel = match cooperative {
            Some(_) => "linear_nf4_cooperative",
            None if decode => "linear_nf4_decode",
            None if product.thin() => "linear_nf4_thin",
            None => "linear_nf4",
        };
        let mut k = self.kernel(kernel, name);
        let codes_at = packed.bind(&mut k)?;
        let layout = k.read("x", x)?;
        for word in [rows, outer, inner + rank, outer, 0] {
            k.word(word)?;
        }
        k.row_tile()?;
        for word in [inner, layout.offset, layout.strides[0], layout.strides[1], rank] {
            k.word(word)?;
        }
        let b = match &layer.low {
            Some((h, b)) => {
                h.bind(&mut k, "h")?;
                [b.bind(&mut k, "b")?, b.strides[0], b.strides[1]]
            }
            None => [0; 3],
        };
        let plan = if let Some(how) = cooperative {
            product.plan_cooperative(how)
        } else if decode {
            k.wide("codes", codes_at, &[]);
            k.wide("x", layout.offset, &[row]);
            product.plan_columns(self.machine)
        } else {
            let eights = step == 1 && by(8) && rank.is_multiple_of(8);
            let b_oct = eights && codes_at.is_multiple_of(4);
            let a_oct =
                eights && (rank == 0 || k.wide("h", 0, &[rank])) && k.wide("x", layout.offset, &[row]);
            product.octs = [a_oct, b_oct];
            product.plan(self.machine)
        };
        let parts = self.parts(name, &plan, rows * outer)?;
        let bias = match layer.bias {
            Some(bias) if parts.is_none() => [k.read("bias", bias)?.offset, bias.layout.strides[0]],
            _ => [0; 2],
        };
        for word in b.into_iter().chain(bias) {
            k.word(word)?;
        }
        k.float(layer.scale);
        match &parts {
            Some(parts) => k.scratch("y", parts, DType::F32, Access::Whole)?,
            None => k.output_by_rows("y", y, outer.is_multiple_of(y.lanes()))?,
        };
        k.run_product(&plan)?;
        let Some(parts) = &parts else { return Ok(()) };
        let finish = Finish { factor: 1.0, bias: layer.bias };
        self.sum_parts(name, (parts, plan.parts), [rows, outer], &finish, (y.buffer, y.dtype))
    }
}

impl Kernel<LinearNf4Group> for Wgpu {
    fn run(
        &self,
        op: &LinearNf4Group,
        inputs: &[Input<'_, Self>],
        outputs: &mut [Output<'_, Self>],
    ) -> Result<()> {
        // One launch could not bind all of the weights: WebGPU has 8 storage buffers.
        for ((format, outer, at), y) in op.places().zip(&*outputs) {
            let parts = if format.nested.is_some() { 4 } else { 2 };
            let layer =
                Layer { weight: &inputs[at..at + parts], format, outer, bias: None, low: None, scale: 1.0 };
            self.product(LinearNf4Group::NAME, &inputs[0], &layer, y)?;
        }
        Ok(())
    }
}

impl Wgpu {
    /// `dx = dy·W`, and with `low = (u, A)` as further inner dimensions `+ u·A`.
    fn input_gradient<'a>(
        &self,
        op: &LinearNf4Grad,
        dy: &Input<'a, Self>,
        weight: &[Input<'a, Self>],
        low: Option<(&Operand<'a>, &Operand<'a>)>,
        dx: &Output<'_, Self>,
    ) -> Result<()> {
        let name = LinearNf4Grad::NAME;
        let (rows, outer) = (dy.layout.dims[0], dy.layout.dims[1]);
        if rows * op.inner == 0 {
            return Ok(());
        }
        let dense = self.dense_inputs(name, weight)?;
        let weight = dense.inputs(weight);
        let packed = self.packed(name, &op.format, &weight)?;
        let mut k = self.kernel(name, name);
        packed.bind(&mut k)?;
        let layout = k.read("dy", dy)?;
        let rank = low.map_or(0, |(_, a)| a.dims[0]);
        for word in [rows, op.inner, outer + rank, op.inner, 0] {
            k.word(word)?;
        }
        k.row_tile()?;
        for word in [outer, layout.offset, layout.strides[0], layout.strides[1], rank] {
            k.word(word)?;
        }
        let a = match low {
            Some((u, a)) => {
                u.bind(&mut k, "u")?;
                [a.bind(&mut k, "a")?, a.strides[0], a.strides[1]]
            }
            None => [0; 3],
        };
        for word in a {
            k.word(word)?;
        }
        k.output_by_rows("y", dx, op.inner.is_multiple_of(dx.lanes()))?;
        let eights = layout.strides[1] == 1 && [outer, rank].iter().all(|n| n % 8 == 0);
        let a_oct = eights
            && (rank == 0 || k.wide("u", 0, &[rank]))
            && k.wide("dy", layout.offset, &[layout.strides[0]]);
        let sizes = [1, rows, op.inner, outer + rank];
        let product = Product { sizes, by_k: [layout.strides[1] == 1, false], octs: [a_oct, false] };
        k.run_product(&product.plan_tiles(self.machine).whole())
    }
}

impl Kernel<LinearNf4Grad> for Wgpu {
    fn run(
        &self,
        op: &LinearNf4Grad,
        inputs: &[Input<'_, Self>],
        outputs: &mut [Output<'_, Self>],
    ) -> Result<()> {
        let name = LinearNf4Grad::NAME;
        let dy = &inputs[0];
        let (rows, dtype) = (dy.layout.dims[0], dy.dtype);
        let at = if op.format.nested.is_some() { 5 } else { 3 };
        let weight = &inputs[1..at];
        let Some(term) = &op.lora else {
            return self.input_gradient(op, dy, weight, None, &outputs[0]);
        };
        let (a, b) = (Operand::new(&inputs[at]), Operand::new(&inputs[at + 1]));
        let r = a.dims[0];
        let u = self.temporary(name, rows * r * dtype.size())?;
        let what = Small { scale_b: Some(term.scale), factor: 1.0, ..Small::default() };
        self.small_product(name, &Operand::new(dy), &b, (&u, dtype), what)?;
        let u = Operand::dense(&u, dtype, [rows, r]);
        let mut outputs = outputs.iter();
        if op.x {
            let dx = outputs.next().expect("dx by the rule");
            match &term.dropout {
                None => self.input_gradient(op, dy, weight, Some((&u, &a)), dx)?,
                Some(dropout) => {
                    self.input_gradient(op, dy, weight, None, dx)?;
                    let what =
                        Small { scale_b: Some(1.0), add: Some(dropout), factor: 1.0, ..Small::default() };
                    self.small_product(name, &u, &a, (dx.buffer, dx.dtype), what)?;
                }
            }
        }
        if op.factors {
            let (da, db) = (outputs.next().expect("dA by the rule"), outputs.next().expect("dB by the rule"));
            let (x, h) = (Operand::new(&inputs[at + 2]), Operand::new(&inputs[at + 3]));
            let what = Small { drop_b: term.dropout.as_ref(), factor: 1.0, ..Small::default() };
            self.small_product(name, &u.t(), &x, (da.buffer, da.dtype), what)?;
            let what = Small { factor: term.scale, ..Small::default() };
            self.small_product(name, &Operand::new(dy).t(), &h, (db.buffer, db.dtype), what)?;
        }
        Ok(())
    }
}
