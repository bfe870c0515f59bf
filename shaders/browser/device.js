// The GPU: adapter, device, memory, and reading back. What launches gather is in launch.js.

import { BYTES } from "./assemble.js";
import { Tensor } from "./tensor.js";

/** Smallest buffer, and the step of the smaller size classes. */
const LEAST = 256;
/** Words of a fault report (`#fault`). */
const FAULT_WORDS = 4;

/** A buffer with a number by which bind groups are found again. */
class Buffer {
  static #count = 0;

  constructor(raw) {
    this.raw = raw;
    this.id = Buffer.#count;
    Buffer.#count += 1;
  }
}

/** One of eight sizes per power of two: shapes that differ a little share buffers. */
function sizeClass(bytes) {
  const least = Math.max(bytes, LEAST);
  const step = Math.max(2 ** Math.ceil(Math.log2(least)) / 16, LEAST);
  return Math.ceil(least / step) * step;
}

/** Why there is no GPU, as a text for people. */
export class NoGpu extends Error {}

async function findAdapter() {
  if (!globalThis.isSecureContext) {
    throw new NoGpu("Browsers offer WebGPU only to pages from https:// or from this machine. Open the page as http://localhost:….");
  }
  if (!navigator.gpu) {
    throw new NoGpu("This browser has no WebGPU. Chrome and Edge have it, newer Safari and Firefox too.");
  }
  const adapter = await navigator.gpu.requestAdapter({ powerPreference: "high-performance" });
  if (!adapter) {
    throw new NoGpu("The browser knows WebGPU but offers no adapter: the graphics driver may be missing or blocked. "
      + "chrome://gpu tells more; on Linux, Chrome may need --enable-unsafe-webgpu.");
  }
  return adapter;
}

/** What the adapter calls itself. */
function adapterName({ info = {} }) {
  const parts = [info.description || info.device, info.vendor, info.architecture].filter(Boolean);
  return [...new Set(parts)].join(", ") || "unnamed adapter";
}

/** An open device with its memory. */
export class Device {
  /** Opens the browser's adapter. `defaultLimits` asks for nothing beyond WebGPU's default limits. */
  static async open({ defaultLimits = false } = {}) {
    const adapter = await findAdapter();
    const requiredLimits = {};
    if (!defaultLimits) {
      for (const limit of ["maxBufferSize", "maxStorageBufferBindingSize"]) {
        requiredLimits[limit] = adapter.limits[limit];
      }
    }
    // Asked for where they are: a kernel may have a variant with them.
    const requiredFeatures = ["subgroups", "shader-f16"].filter((f) => adapter.features.has(f));
    const raw = await adapter.requestDevice({ label: "roentgen", requiredFeatures, requiredLimits });
    return new Device(raw, adapterName(adapter), Boolean(adapter.info?.isFallbackAdapter ?? adapter.isFallbackAdapter));
  }

  constructor(raw, name, fallback) {
    this.raw = raw;
    this.name = name;
    /** Whether it is the processor in disguise. */
    this.fallback = fallback;
    this.limits = raw.limits;
    /** Free buffers by size. */
    this.free = new Map();
    this.bytes = 0;
    /** Buffers that the present scope has taken. */
    this.taken = [];
    this.staging = [];
    this.problem = null;
    const usage = GPUBufferUsage.STORAGE | GPUBufferUsage.COPY_SRC | GPUBufferUsage.COPY_DST;
    this.fault = new Buffer(raw.createBuffer({ label: "faults", size: 4 * FAULT_WORDS, usage }));
    raw.addEventListener("uncapturederror", (event) => this.note(event.error.message));
    raw.lost.then((info) => this.note(`the device was lost (${info.reason}): ${info.message}`));
  }

  /** Remembers the first thing that went wrong; the next read reports it. */
  note(problem) {
    this.problem ??= problem;
  }

  check() {
    if (this.problem) {
      throw new Error(`the GPU failed: ${this.problem}. Reload the page to open it again.`);
    }
  }

  /** A tensor of its own memory, of any content. Inside of {@link scope} it is given back at the scope's end. */
  tensor(dtype, dims) {
    const bytes = dims.reduce((a, b) => a * b, BYTES[dtype]);
    const tensor = new Tensor(this.#take(bytes), dtype, dims);
    this.taken.push(tensor.buffer);
    return tensor;
  }

  #take(bytes) {
    const size = sizeClass(bytes);
    const free = this.free.get(size)?.pop();
    if (free) {
      return free;
    }
    const most = Math.min(this.limits.maxBufferSize, this.limits.maxStorageBufferBindingSize);
    if (size > most) {
      throw new Error(`a tensor of ${bytes} bytes: this adapter binds at most ${most}`);
    }
    const usage = GPUBufferUsage.STORAGE | GPUBufferUsage.COPY_SRC | GPUBufferUsage.COPY_DST;
    this.raw.pushErrorScope("out-of-memory");
    const raw = this.raw.createBuffer({ size, usage });
    this.raw.popErrorScope().then((e) => e && this.note(`no memory for ${size} bytes more than the ${this.bytes} held: ${e.message}`));
    this.bytes += size;
    return new Buffer(raw);
  }

  /**
   * Gives the memory of all tensors made in `body` back when it returns, but for those that it returns. Commands run in order, so
   * later tensors may take that memory at once; and equal calls take equal buffers, whose bind groups are known.
   * @template {Tensor | Tensor[] | undefined} T
   * @param {() => T} body
   * @returns {T}
   */
  scope(body) {
    const outer = this.taken;
    this.taken = [];
    try {
      const result = body();
      const kept = new Set([result].flat().filter(Boolean).map((tensor) => tensor.buffer));
      for (const buffer of this.taken.reverse()) {
        if (kept.has(buffer)) {
          outer.push(buffer);
        } else {
          this.release(buffer);
        }
      }
      return result;
    } finally {
      this.taken = outer;
    }
  }

  /** Makes a buffer free for other tensors. */
  release(buffer) {
    const size = buffer.raw.size;
    if (!this.free.has(size)) {
      this.free.set(size, []);
    }
    this.free.get(size).push(buffer);
  }

  /** A tensor with this content, written before all commands that are submitted later ({@link Stream#upload} cares for that). */
  upload(dtype, dims, bytes) {
    const tensor = this.tensor(dtype, dims);
    const whole = bytes.byteLength & ~3;
    this.raw.queue.writeBuffer(tensor.buffer.raw, 0, bytes.buffer, bytes.byteOffset, whole);
    if (whole < bytes.byteLength) {
      // Words are the least that can be written.
      const last = new Uint8Array(4);
      last.set(new Uint8Array(bytes.buffer, bytes.byteOffset + whole, bytes.byteLength - whole));
      this.raw.queue.writeBuffer(tensor.buffer.raw, whole, last);
    }
    return tensor;
  }

  /** Records a copy of `words` words of a buffer into a fresh staging buffer, behind the fault report. */
  stageRead(encoder, buffer, words) {
    const size = 4 * (FAULT_WORDS + words);
    const at = this.staging.findIndex((s) => s.size >= size);
    const usage = GPUBufferUsage.MAP_READ | GPUBufferUsage.COPY_DST;
    const staging = at >= 0 ? this.staging.splice(at, 1)[0] : this.raw.createBuffer({ size, usage });
    encoder.copyBufferToBuffer(this.fault.raw, 0, staging, 0, 4 * FAULT_WORDS);
    encoder.copyBufferToBuffer(buffer.raw, 0, staging, 4 * FAULT_WORDS, 4 * words);
    return { staging, size };
  }

  /** The words of a staged read, once they are there. An error if anything went wrong until then. */
  async finishRead({ staging, size }, faults) {
    try {
      await staging.mapAsync(GPUMapMode.READ, 0, size);
    } catch (e) {
      this.check();
      throw new Error(`the GPU does not answer a read: ${e.message}`);
    }
    const words = new Uint32Array(staging.getMappedRange(0, size).slice(0));
    staging.unmap();
    this.staging.push(staging);
    this.check();
    const [faulty, value, place, number] = words;
    if (faulty !== 0) {
      this.raw.queue.writeBuffer(this.fault.raw, 0, new Uint32Array(FAULT_WORDS));
      throw new Error(`${faults[number - 1] ?? "a kernel"} found ${value} at place ${place}, which is outside its table`);
    }
    return words.subarray(FAULT_WORDS);
  }
}
