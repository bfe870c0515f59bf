// The safetensors format: eight bytes with the length of a JSON header, the header, the data.

import { BYTES } from "./assemble.js";

/** Element types that kernels know, by their names in the format. */
const DTYPES = { F32: "f32", BF16: "bf16", F16: "f16" };
/** Longest header that is read, as the reference implementation has it. */
const LONGEST_HEADER = 100_000_000;

/** The tensors of one file. */
export class Safetensors {
  /**
   * Reads the header and checks every tensor's place.
   * @param {string} name of the file, for errors
   * @param {Blob} blob its content
   */
  static async open(name, blob) {
    const fail = (reason) => new Error(`${name}: ${reason}`);
    if (blob.size < 8) {
      throw fail(`${blob.size} bytes are too few for a safetensors file`);
    }
    const length = new DataView(await blob.slice(0, 8).arrayBuffer()).getBigUint64(0, true);
    if (length > LONGEST_HEADER) {
      throw fail("not a safetensors file: its header would be longer than 100 MB");
    }
    const start = 8 + Number(length);
    if (start > blob.size) {
      throw fail(`cut off: the header ends at byte ${start}, the file at ${blob.size}`);
    }
    let header;
    try {
      header = JSON.parse(await blob.slice(8, start).text());
    } catch (e) {
      throw fail(`not a safetensors file: its header is no JSON (${e.message})`);
    }
    const tensors = new Map();
    for (const [tensor, entry] of Object.entries(header)) {
      if (tensor === "__metadata__") {
        continue;
      }
      const { dtype, shape, data_offsets: offsets } = entry ?? {};
      if (!Array.isArray(shape) || !Array.isArray(offsets) || offsets.length !== 2) {
        throw fail(`the header's entry of ${tensor} has no shape or no place`);
      }
      const [from, to] = offsets.map((at) => start + at);
      if (!(from >= start && from <= to)) {
        throw fail(`${tensor} lies at ${offsets}, which is no range`);
      }
      if (to > blob.size) {
        throw fail(`cut off: ${tensor} ends at byte ${to}, the file at ${blob.size}; copy it again`);
      }
      const bytes = BYTES[DTYPES[dtype]];
      if (bytes && shape.reduce((a, b) => a * b, bytes) !== to - from) {
        throw fail(`${tensor} of shape [${shape}] in ${dtype} has ${to - from} bytes`);
      }
      tensors.set(tensor, { dtype, shape, from, to });
    }
    return new Safetensors(name, blob, tensors);
  }

  constructor(name, blob, tensors) {
    this.name = name;
    this.blob = blob;
    this.tensors = tensors;
  }

  has(name) {
    return this.tensors.has(name);
  }

  /** Parameters of all tensors. */
  get parameters() {
    return [...this.tensors.values()].reduce((sum, { shape }) => sum + shape.reduce((a, b) => a * b, 1), 0);
  }

  /** Element type and bytes of the tensor `name`, which must have the shape `dims`. */
  async read(name, dims) {
    const entry = this.tensors.get(name);
    if (!entry) {
      throw new Error(`${this.name} has no tensor ${name}; is it this configuration's file?`);
    }
    const { dtype, shape, from, to } = entry;
    if (shape.length !== dims.length || shape.some((size, d) => size !== dims[d])) {
      throw new Error(`${this.name}: ${name} has the shape [${shape}], config.json asks for [${dims}]`);
    }
    if (!(dtype in DTYPES)) {
      throw new Error(`${this.name}: ${name} is in ${dtype}; this page reads F32, BF16 and F16 (quantised folders need the program)`);
    }
    return { dtype: DTYPES[dtype], bytes: new Uint8Array(await this.blob.slice(from, to).arrayBuffer()) };
  }
}
