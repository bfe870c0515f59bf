// Launching kernels: the twin of engine/src/wgpu/launch.rs and stream.rs. Launches gather in one command encoder; a read submits them.

import { ACCESS, BYTES, ShaderFiles, assemble, variantKey } from "./assemble.js";
import { paramsLayout, writeParams } from "./params.js";

/** Bytes of launch parameters that one submission holds, in slots of the largest alignment that WebGPU allows. */
const PARAMS = 256 << 10;
const SLOT = 256;
/** Launches of a submission: drivers watch for work that takes seconds. */
const LAUNCHES = 192;
/** Most workgroups along one dimension (WebGPU's default limit). */
const MOST_GROUPS = 65535;
/** Invocations of a workgroup of elementwise kernels. */
const WORKGROUP = 256;

/** Line that Tint needs before a text with subgroup operations, and that naga refuses. */
export function browserText(text) {
  return /\bsubgroup[A-Z]\w*\(|subgroup_size|subgroup_invocation_id/.test(text) ? `enable subgroups;\n${text}` : text;
}

/** Layout entries of a kernel's bindings. */
function layoutEntries(bindings) {
  return bindings.map(({ kind, access }, binding) => {
    const uniform = kind === "params" || access === ACCESS.Uniform;
    const type = uniform ? "uniform" : access === ACCESS.Read ? "read-only-storage" : "storage";
    return { binding, visibility: GPUShaderStage.COMPUTE, buffer: { type, hasDynamicOffset: kind === "params" } };
  });
}

/** Records and submits launches. */
export class Stream {
  /**
   * @param {import("./device.js").Device} device
   * @param {ShaderFiles} files
   */
  constructor(device, files) {
    this.device = device;
    this.files = files;
    this.built = new Map();
    this.groups = new Map();
    const usage = GPUBufferUsage.UNIFORM | GPUBufferUsage.COPY_DST;
    this.params = device.raw.createBuffer({ label: "parameters", size: PARAMS, usage });
    this.staged = new DataView(new ArrayBuffer(PARAMS));
    this.used = 0;
    this.encoder = null;
    this.pass = null;
    this.launches = 0;
    /** Launches since the page was opened. */
    this.total = 0;
    /** Kernels that report bad indices; the first has number 1. */
    this.faults = [];
  }

  /**
   * Launches a kernel.
   * @param {string} kernel file under shaders/
   * @param {object} launch
   * @param {Object<string, Tensor>} [launch.inputs] read through a view, the parameter of the same name
   * @param {Object<string, Tensor>} [launch.reads] read, where they lie being said by other parameters
   * @param {Object<string, Tensor>} [launch.outputs] fresh and contiguous
   * @param {boolean} [launch.aligned] false where words of outputs have several writers
   * @param {Object<string, Tensor>} [launch.targets] views of tensors that keep their other elements
   * @param {string[]} [launch.wide] names of `reads` whose rows all begin at multiples of 16 bytes and are read so
   * @param {Object<string, number|boolean>} [launch.constants]
   * @param {object} [launch.params] by the names of the kernel's `struct Params`
   * @param {number[]} grid workgroups
   */
  launch(kernel, { inputs = {}, reads = {}, outputs = {}, targets = {}, aligned = true, wide = [], constants = {}, params = {} }, grid) {
    if (grid.includes(0)) {
      return;
    }
    if (grid.some((n) => n > MOST_GROUPS)) {
      throw new Error(`${kernel}: a grid of [${grid}] workgroups is too large`);
    }
    const variant = { tensors: new Map(), constants: new Map(Object.entries(constants)), dense: new Set(), wide: new Set(wide) };
    const values = {};
    const bind = (name, tensor, access) => {
      // Words of four-byte elements have one writer each.
      const own = access === ACCESS.Shared && BYTES[tensor.dtype] === 4 ? ACCESS.Whole : access;
      variant.tensors.set(name, { dtype: tensor.dtype, access: own });
    };
    const bindView = (name, view) => {
      values[name] = view.words;
      if (view.dense) {
        variant.dense.add(name);
      }
    };
    for (const [name, tensor] of Object.entries(inputs)) {
      bind(name, tensor, ACCESS.Read);
      bindView(name, tensor.view());
    }
    for (const [name, tensor] of Object.entries(reads)) {
      bind(name, tensor, ACCESS.Read);
    }
    for (const [name, tensor] of Object.entries(outputs)) {
      bind(name, tensor, aligned ? ACCESS.Whole : ACCESS.Shared);
    }
    for (const [name, tensor] of Object.entries(targets)) {
      const view = tensor.view();
      bind(name, tensor, view.wordAligned(tensor.lanes) ? ACCESS.Whole : ACCESS.Shared);
      bindView(name, view);
    }
    const built = this.#pipeline(kernel, variant);
    // The number under which the kernel reports a bad index of any kind.
    for (const name of ["launch", "twice"]) {
      if (built.params?.fields.has(name)) {
        values[name] = this.#faultNumber(kernel);
      }
    }
    this.#record(kernel, built, { ...inputs, ...reads, ...outputs, ...targets }, { ...values, ...params }, grid);
  }

  /** Launches workgroups for `items` things, `each` to a workgroup, folded over two dimensions. */
  launchLinear(kernel, launch, items, each) {
    const groups = Math.ceil(items / each);
    const fold = Math.max(Math.ceil(groups / MOST_GROUPS), 1);
    this.launch(kernel, launch, [Math.ceil(groups / fold), groups === 0 ? 0 : fold, 1]);
  }

  /** Launches an elementwise kernel over `count` elements, `lanes` to an invocation. */
  launchElements(kernel, launch, count, lanes) {
    this.launchLinear(kernel, launch, count, WORKGROUP * lanes);
  }

  #faultNumber(kernel) {
    const known = this.faults.indexOf(kernel);
    return known >= 0 ? known + 1 : this.faults.push(kernel);
  }

  #pipeline(kernel, variant) {
    const key = variantKey(kernel, variant);
    let built = this.built.get(key);
    if (!built) {
      built = this.#build(kernel, variant, key);
      this.built.set(key, built);
    }
    return built;
  }

  #build(kernel, variant, key) {
    const { text, bindings } = assemble(this.files, kernel, variant);
    const { raw } = this.device;
    raw.pushErrorScope("validation");
    const layout = raw.createBindGroupLayout({ label: kernel, entries: layoutEntries(bindings) });
    const pipeline = raw.createComputePipeline({
      label: kernel,
      layout: raw.createPipelineLayout({ bindGroupLayouts: [layout] }),
      compute: { module: raw.createShaderModule({ label: kernel, code: browserText(text) }), entryPoint: "main" },
    });
    raw.popErrorScope().then((e) => e && this.device.note(`the browser refuses kernel ${key}: ${e.message}`));
    return { key, kernel, variant, text, bindings, layout, pipeline, params: paramsLayout(text) };
  }

  /** Every kernel built so far with what it was built for: tests assemble the same natively. */
  kernels() {
    return [...this.built.values()].map(({ kernel, variant: { tensors, constants, dense, wide }, text }) => ({
      kernel, text, tensors: Object.fromEntries(tensors), constants: Object.fromEntries(constants), dense: [...dense], wide: [...wide],
    }));
  }

  #record(kernel, built, tensors, values, grid) {
    if (this.launches >= LAUNCHES || this.used + SLOT * Math.ceil((built.params?.size ?? 0) / SLOT) > PARAMS) {
      this.submit();
    }
    const at = this.used;
    const bound = { params: this.params, fault: this.device.fault.raw };
    const buffers = built.bindings.map(({ kind, name }) => (kind === "tensor" ? tensors[name].buffer : null));
    const groupKey = `${built.key} ${buffers.map((b) => b?.id ?? "-").join(" ")}`;
    let group = this.groups.get(groupKey);
    if (!group) {
      group = this.device.raw.createBindGroup({
        label: kernel,
        layout: built.layout,
        entries: built.bindings.map(({ kind }, binding) => {
          const size = kind === "params" ? built.params.size : undefined;
          return { binding, resource: { buffer: buffers[binding]?.raw ?? bound[kind], size } };
        }),
      });
      this.groups.set(groupKey, group);
    }
    const offsets = [];
    if (built.params) {
      writeParams(built.params, values, this.staged, at, kernel);
      this.used += SLOT * Math.ceil(built.params.size / SLOT);
      offsets.push(at);
    }
    this.#encode();
    this.pass ??= this.encoder.beginComputePass();
    this.pass.setPipeline(built.pipeline);
    this.pass.setBindGroup(0, group, offsets);
    this.pass.dispatchWorkgroups(...grid);
    this.launches += 1;
    this.total += 1;
  }

  #encode() {
    this.encoder ??= this.device.raw.createCommandEncoder();
    return this.encoder;
  }

  #endPass() {
    this.pass?.end();
    this.pass = null;
  }

  /** A tensor with this content. What was recorded before may still use its memory, and goes first. */
  upload(dtype, dims, bytes) {
    this.submit();
    return this.device.upload(dtype, dims, bytes);
  }

  /** Fills a tensor's memory with zeros. */
  clear(tensor) {
    this.#endPass();
    this.#encode().clearBuffer(tensor.buffer.raw);
  }

  /** Hands what was recorded to the device. */
  submit() {
    this.#endPass();
    if (!this.encoder) {
      return;
    }
    if (this.used > 0) {
      this.device.raw.queue.writeBuffer(this.params, 0, this.staged.buffer, 0, this.used);
    }
    this.device.raw.queue.submit([this.encoder.finish()]);
    this.encoder = null;
    this.launches = 0;
    this.used = 0;
  }

  /**
   * The first `words` words of a tensor's memory after all that was recorded before; a promise, so that the next commands can be
   * recorded meanwhile.
   * @returns {Promise<Uint32Array>}
   */
  read(tensor, words) {
    this.#endPass();
    const staged = this.device.stageRead(this.#encode(), tensor.buffer, words);
    this.submit();
    return this.device.finishRead(staged, this.faults);
  }
}
