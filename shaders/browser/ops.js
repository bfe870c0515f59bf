// One function per operation that the model uses, by the names of engine/src/ops; each launches shaders/<op>.wgsl as
// engine/src/wgpu/<op>.rs does. Results are fresh tensors of the present scope.

import { TYPE_NUMBER } from "./assemble.js";
import { Tensor, View } from "./tensor.js";

/** Kernel files that these functions launch. */
export const KERNELS = [
  "argmax", "attention", "attention_decode", "binary", "cast", "embedding", "gated_silu", "gelu", "layer_norm", "matmul", "matmul_thin",
  "rms_norm", "rope", "scatter_rows", "scatter_rows_index", "write",
];

/** Most rows of x that the thin product takes. */
const THIN = 8;
/** Invocations that a large GPU needs to be busy: as many share a column of the thin product as that takes. */
const ENOUGH = 2 ** 15;
const THIN_LANES = [8, 16, 32];
/** Those of one column where the processor plays the GPU: there a workgroup's barriers cost most. */
const SOFTWARE_LANES = 1;
/** Rows and columns of a tile of the product; large tiles from which on they are used. */
const TILE = 64;
const LARGE_TILES = 16;
/** Queries and keys of a tile of attention, elements of a chunk of a head. */
const ATTENTION_TILE = 32;
/** Most queries, and most elements of a head, of the kernel that takes queries one by one. */
const DECODE_QUERIES = 4;
const DECODE_WIDTH = 256;

/** The operations on one stream. */
export class Ops {
  /** @param {import("./launch.js").Stream} stream */
  constructor(stream) {
    this.stream = stream;
    this.device = stream.device;
    this.frequencies = new Map();
  }

  #map(kernel, inputs, dims, dtype, constants) {
    const y = this.device.tensor(dtype, dims);
    const launch = { inputs, outputs: { y }, params: { count: y.count }, constants };
    this.stream.launchElements(kernel, launch, y.count, y.lanes);
    return y;
  }

  /** `x` in row-major order, in another element type or its own. */
  cast(x, dtype = x.dtype) {
    return this.#map("cast", { x }, x.dims, dtype, { FROM: TYPE_NUMBER[x.dtype], TO: TYPE_NUMBER[dtype] });
  }

  /** `x` itself if it is of this type, else converted. */
  toDtype(x, dtype) {
    return x.dtype === dtype ? x : this.cast(x, dtype);
  }

  /** `a + b`, of equal shape. */
  add(a, b) {
    return this.#map("binary", { a, b }, a.dims, a.dtype, { KIND: 0 });
  }

  /** GELU in its tanh form. */
  gelu(x) {
    return this.#map("gelu", { x }, x.dims, x.dtype, { KIND: 0 });
  }

  /** `silu(gate) · up` */
  gatedSilu(gate, up) {
    return this.#map("gated_silu", { gate, up }, gate.dims, gate.dtype, { KIND: 0 });
  }

  #norm(kernel, inputs, eps) {
    const { x } = inputs;
    const n = x.dims.at(-1);
    const y = this.device.tensor(x.dtype, x.dims);
    const rows = x.count / n;
    const launch = { inputs, outputs: { y }, aligned: n % y.lanes === 0, params: { rows, n, eps } };
    this.stream.launchLinear(kernel, launch, rows, 1);
    return y;
  }

  /** Over the last dimension, with weight and bias. */
  layerNorm(x, w, b, eps) {
    return this.#norm("layer_norm", { x, w, b }, eps);
  }

  /** Over the last dimension. */
  rmsNorm(x, w, eps) {
    return this.#norm("rms_norm", { x, w }, eps);
  }

  /** `x·wᵀ (+ bias)`: x `[…, k]` contiguous, w `[n, k]`, bias `[n]`. */
  linear(x, w, bias) {
    const [n, k] = w.dims;
    const m = x.count / k;
    if (x.dims.at(-1) !== k) {
      throw new Error(`linear: the input [${x.dims}] does not fit the weight [${w.dims}]`);
    }
    const a = x.reshape([m, k]);
    const y = this.device.tensor(x.dtype, [...x.dims.slice(0, -1), n]);
    const launch = {
      reads: bias ? { a, b: w, bias } : { a, b: w },
      outputs: { y },
      aligned: n % y.lanes === 0,
      params: {
        a: new View([], a.offset).words,
        b: new View([], w.offset).words,
        m, n, k, ldc: n, first: 0, row_tile: 0, a_row: k, a_col: 1, b_row: 1, b_col: k,
        bias_at: bias?.offset ?? 0,
        bias_step: bias ? 1 : 0,
      },
    };
    // Eight neighbours along k at a time, where all rows begin at multiples of 16 bytes.
    const eights = (x) => k % 8 === 0 && x.offset % (4 * x.lanes) === 0;
    const [aEights, bEights] = [eights(a), eights(w)];
    launch.wide = [...(aEights ? ["a"] : []), ...(bEights ? ["b"] : [])];
    if (m <= THIN) {
      const lanes = this.device.fallback ? SOFTWARE_LANES : THIN_LANES.find((l) => n * l >= ENOUGH) ?? THIN_LANES.at(-1);
      const each = !this.device.fallback && m <= 4 && n * lanes >= ENOUGH ? 2 : 1;
      launch.constants = { STACKED: false, B_BY_K: true, OCT: aEights && bEights, ROWS: m, LANES: lanes, EACH: each };
      this.stream.launch("matmul_thin", launch, [Math.ceil(n / ((256 / lanes) * each)), 1, 1]);
      return y;
    }
    const tiles = (edge) => Math.ceil(m / edge) * Math.ceil(n / edge);
    const quads = m > TILE && n > TILE && tiles(2 * TILE) >= LARGE_TILES ? 2 : 1;
    launch.constants = {
      STACKED: false, A_BY_K: true, B_BY_K: true, A_OCT: aEights, B_OCT: bEights, ROW_QUADS: quads, COL_QUADS: quads,
    };
    this.stream.launch("matmul", launch, [Math.ceil(n / (TILE * quads)), Math.ceil(m / (TILE * quads)), 1]);
    return y;
  }

  /** Patches of `x [b, c, H, W]` as rows `[b, (H/p)(W/p), c·p·p]`, row by row, in `dtype`. */
  patches(x, p, dtype) {
    const [b, c, height, width] = x.dims;
    const [down, across] = [Math.floor(height / p), Math.floor(width / p)];
    const whole = x.narrow(2, 0, down * p).narrow(3, 0, across * p);
    // [b, c, down, p, across, p]: strides of the parts of a dimension follow from the whole's.
    const [sb, sc, sh, sw] = whole.strides;
    const cut = [[b, sb], [down, p * sh], [across, p * sw], [c, sc], [p, sh], [p, sw]];
    const view = new Tensor(x.buffer, x.dtype, cut.map((d) => d[0]), cut.map((d) => d[1]), x.offset);
    return this.cast(view, dtype).reshape([b, down * across, c * p * p]);
  }

  /** Rows of `table [rows, n]` for `ids` u32 of any shape. */
  embedding(table, ids) {
    const [rows, n] = table.dims;
    const y = this.device.tensor(table.dtype, [...ids.dims, n]);
    const launch = {
      inputs: { ids },
      reads: { table },
      outputs: { y },
      constants: { PART: false },
      params: { count: y.count, n, low: 0, rows, all: rows, table_at: table.offset, down: n, step: 1 },
    };
    this.stream.launchElements("embedding", launch, y.count, y.lanes);
    return y;
  }

  /** `base [m, n]` with row `index[j]` replaced by `rows[j]`. */
  scatterRows(base, rows, index) {
    const [all, n] = base.dims;
    const source = this.device.tensor("u32", [all]);
    this.stream.clear(source);
    const replaced = index.count;
    const numbering = { inputs: { index }, outputs: { source }, params: { count: replaced, rows: all } };
    this.stream.launchElements("scatter_rows_index", numbering, replaced, 1);
    const y = this.device.tensor(base.dtype, base.dims);
    const launch = { inputs: { base, rows }, reads: { source }, outputs: { y }, params: { count: y.count, n } };
    this.stream.launchElements("scatter_rows", launch, y.count, y.lanes);
    return y;
  }

  /** Copies `x` into `target`, a view of a tensor that keeps its other elements. */
  write(target, x) {
    const together = target.view().wordAligned(target.lanes) ? target.lanes : 1;
    const constants = { FROM: TYPE_NUMBER[x.dtype], TO: TYPE_NUMBER[target.dtype], TOGETHER: together };
    const launch = { inputs: { x }, targets: { y: target }, constants, params: { count: target.count } };
    this.stream.launchElements("write", launch, target.count, together);
  }

  /** Rotary embedding in the layout of Hugging Face: `x [1, s, heads, d]`, positions u32 `[1, s]`. */
  rope(x, positions, theta) {
    const [, , heads, d] = x.dims;
    const frequencies = this.#inverseFrequencies(theta, d);
    const y = this.device.tensor(x.dtype, x.dims);
    const launch = {
      inputs: { x, positions },
      reads: { frequencies },
      outputs: { y },
      constants: { HALF: true },
      params: { count: y.count, d, row: heads * d, sign: 1 },
    };
    this.stream.launchElements("rope", launch, y.count, y.lanes);
    return y;
  }

  /** `theta^(−2i/d)`, i < d/2, each rounded to f32 as `1 / theta^(2i/d)` is. */
  #inverseFrequencies(theta, d) {
    const key = `${theta} ${d}`;
    if (!this.frequencies.has(key)) {
      const power = (i) => Math.fround(Math.fround(theta) ** Math.fround((2 * i) / d));
      const values = Float32Array.from({ length: d / 2 }, (_, i) => 1 / power(i));
      const tensor = this.stream.upload("f32", [d / 2], values);
      // It outlives the scope that first needs it.
      this.device.taken.pop();
      this.frequencies.set(key, tensor);
    }
    return this.frequencies.get(key);
  }

  /** `softmax(scale·q·kᵀ)·v`: q `[1, sq, heads, d]`, k and v `[1, sk, kv heads, d]`, views or not. */
  attention(q, k, v, scale, causal) {
    const [b, sq, heads, d] = q.dims;
    const [, sk, kvHeads] = k.dims;
    const strided = ({ offset, strides: [batch, row, head, step] }) => ({ at: offset, batch, row, head, step });
    const none = { at: 0, batch: 0, row: 0, head: 0, step: 0 };
    const y = this.device.tensor(q.dtype, q.dims);
    const lse = this.device.tensor("f32", [b, heads, sq]);
    const few = sq <= DECODE_QUERIES && d <= DECODE_WIDTH;
    const launch = {
      reads: { q, k, v },
      outputs: { y, lse },
      aligned: d % y.lanes === 0,
      constants: { CAUSAL: causal, CHUNKS: Math.ceil(d / ATTENTION_TILE) },
      params: {
        q: strided(q), k: strided(k), v: strided(v), g: none, mask_at: 0, mask_batch: 0, mask_step: 0,
        sq, sk, heads, per_key: heads / kvHeads, d, scale,
      },
    };
    const queries = few ? sq : Math.ceil(sq / ATTENTION_TILE);
    this.stream.launch(few ? "attention_decode" : "attention", launch, [queries, heads, b]);
    return y;
  }

  /** Index of the largest element of each row of `x [rows, n]`, into `y` u32 `[rows]`. */
  argmax(x, y) {
    const [rows, n] = x.dims;
    this.stream.launchLinear("argmax", { inputs: { x }, outputs: { y }, params: { rows, n } }, rows, 1);
  }
}
