// Tensors as views of buffers on the device, and views as kernels see them (the twin of engine/src/wgpu/view.rs).

import { BYTES } from "./assemble.js";

const MAX_RANK = 6;

const product = (sizes) => sizes.reduce((a, b) => a * b, 1);

function contiguousStrides(dims) {
  const strides = new Array(dims.length);
  let step = 1;
  for (let d = dims.length - 1; d >= 0; d -= 1) {
    strides[d] = step;
    step *= dims[d];
  }
  return strides;
}

/** A strided view of a buffer. Sizes, strides and offset count elements. */
export class Tensor {
  constructor(buffer, dtype, dims, strides = contiguousStrides(dims), offset = 0) {
    this.buffer = buffer;
    this.dtype = dtype;
    this.dims = dims;
    this.strides = strides;
    this.offset = offset;
  }

  /** Number of elements. */
  get count() {
    return product(this.dims);
  }

  /** Elements in a 32-bit word. */
  get lanes() {
    return 4 / BYTES[this.dtype];
  }

  get contiguous() {
    const strides = contiguousStrides(this.dims);
    return this.dims.every((size, d) => size === 1 || this.strides[d] === strides[d]);
  }

  /** Elements `start .. start + length` of dimension `d`. */
  narrow(d, start, length) {
    if (start < 0 || start + length > this.dims[d]) {
      throw new Error(`${start} .. ${start + length} of dimension ${d} of [${this.dims}]`);
    }
    const dims = this.dims.with(d, length);
    return new Tensor(this.buffer, this.dtype, dims, this.strides, this.offset + start * this.strides[d]);
  }

  /** Dimensions in another order. */
  permute(order) {
    const pick = (list) => order.map((d) => list[d]);
    return new Tensor(this.buffer, this.dtype, pick(this.dims), pick(this.strides), this.offset);
  }

  /** The same elements with other sizes; of a contiguous tensor. */
  reshape(dims) {
    if (!this.contiguous || product(dims) !== this.count) {
      throw new Error(`[${this.dims}] cannot be seen as [${dims}]`);
    }
    return new Tensor(this.buffer, this.dtype, dims, contiguousStrides(dims), this.offset);
  }

  /** `View` of shaders/common/view.wgsl. */
  view() {
    return new View(this.dims.map((size, d) => [size, this.strides[d]]), this.offset);
  }
}

/** A strided view without sizes of 1 and with dimensions that continue each other joined. */
export class View {
  /** @param {[number, number][]} dims sizes and strides */
  constructor(dims, offset) {
    this.sizes = [];
    this.strides = [];
    this.offset = offset;
    for (const [size, stride] of dims) {
      if (size === 1) {
        continue;
      }
      const last = this.sizes.length - 1;
      if (last >= 0 && this.strides[last] === size * stride) {
        this.sizes[last] *= size;
        this.strides[last] = stride;
      } else {
        this.sizes.push(size);
        this.strides.push(stride);
      }
    }
    if (this.sizes.length > MAX_RANK) {
      throw new Error(`a view of ${this.sizes.length} dimensions; kernels see at most ${MAX_RANK}`);
    }
    this.rank = Math.max(this.sizes.length, 1);
  }

  /** Whether element `i` lies at `offset + i`. */
  get dense() {
    return this.rank === 1 && (this.sizes.length === 0 || this.strides[0] === 1);
  }

  /** Whether each `lanes` elements from a multiple of `lanes` on lie in one word that holds nothing else. */
  wordAligned(lanes) {
    if (lanes === 1) {
      return true;
    }
    const inner = this.sizes.length - 1;
    return inner >= 0 && this.strides[inner] === 1 && this.sizes[inner] % lanes === 0 && this.offset % lanes === 0
      && this.strides.slice(0, inner).every((s) => s % lanes === 0);
  }

  /** The 16 words of the uniform. */
  get words() {
    const words = new Array(16).fill(0);
    for (let d = 0; d < MAX_RANK; d += 1) {
      words[d] = this.sizes[d] ?? 1;
      words[6 + d] = this.strides[d] ?? 0;
    }
    words[12] = this.offset;
    words[13] = this.rank;
    return words;
  }
}
