// SmolVLM (Idefics3, Laurençon et al. 2024, arXiv 2408.12637) on WebGPU: vision tower, pixel shuffle, one linear map, and a Llama
// decoder with a cache. Structure and names are those of model/src/{smolvlm,siglip,llama}.rs.

import { Tensor } from "./tensor.js";

const fround = Math.fround;
/** `1 / √d` in f32. */
const attentionScale = (d) => fround(1 / fround(Math.sqrt(d)));

/** Tensors of a checkpoint, put on the device one by one in the type of the arithmetic. */
class Loader {
  constructor(ops, weights, dtype, onProgress) {
    this.ops = ops;
    this.weights = weights;
    this.dtype = dtype;
    this.onProgress = onProgress;
    this.loaded = [];
  }

  async get(name, dims) {
    const { dtype, bytes } = await this.weights.read(name, dims);
    const { stream, device } = this.ops;
    const tensor = device.scope(() => this.ops.toDtype(stream.upload(dtype, dims, bytes), this.dtype));
    this.loaded.push(tensor);
    this.onProgress(this.loaded.length, this.weights.tensors.size);
    device.check();
    return tensor;
  }

  /** `{weight, bias}` of a linear layer or a layer norm. */
  async pair(name, dims) {
    return { weight: await this.get(`${name}.weight`, dims), bias: await this.get(`${name}.bias`, dims.slice(0, 1)) };
  }
}

/** The SigLIP vision tower (Zhai et al. 2023, arXiv 2303.15343) as Idefics3 uses it: no class token, no pooling head. */
class Siglip {
  static async load(loader, config) {
    const { hidden: h, inter, patch, layers } = config.vision;
    const name = "model.vision_model";
    const tower = new Siglip();
    tower.config = config;
    tower.patchEmbedding = await loader.pair(`${name}.embeddings.patch_embedding`, [h, 3, patch, patch]);
    tower.positions = await loader.get(`${name}.embeddings.position_embedding.weight`, [config.grid ** 2, h]);
    tower.layers = [];
    for (let i = 0; i < layers; i += 1) {
      const layer = `${name}.encoder.layers.${i}`;
      tower.layers.push({
        norm1: await loader.pair(`${layer}.layer_norm1`, [h]),
        q: await loader.pair(`${layer}.self_attn.q_proj`, [h, h]),
        k: await loader.pair(`${layer}.self_attn.k_proj`, [h, h]),
        v: await loader.pair(`${layer}.self_attn.v_proj`, [h, h]),
        out: await loader.pair(`${layer}.self_attn.out_proj`, [h, h]),
        norm2: await loader.pair(`${layer}.layer_norm2`, [h]),
        fc1: await loader.pair(`${layer}.mlp.fc1`, [inter, h]),
        fc2: await loader.pair(`${layer}.mlp.fc2`, [h, inter]),
      });
    }
    tower.postNorm = await loader.pair(`${name}.post_layernorm`, [h]);
    return tower;
  }

  /** Features `[tiles, grid², hidden]` of pixels f32 `[tiles, 3, edge, edge]`. */
  forward(ops, pixels, dtype) {
    const { hidden: h, patch, eps, heads } = this.config.vision;
    const tiles = pixels.dims[0];
    const { weight, bias } = this.patchEmbedding;
    let x = ops.linear(ops.patches(pixels, patch, dtype), weight.reshape([h, 3 * patch * patch]), bias);
    const { positions } = this;
    // The same positions for every tile: a view that does not move from tile to tile.
    const everywhere = new Tensor(positions.buffer, positions.dtype, x.dims, [0, h, 1], positions.offset);
    x = ops.add(x, everywhere);
    const split = (y) => y.reshape([tiles, this.config.grid ** 2, heads, h / heads]);
    for (const layer of this.layers) {
      const linear = (input, { weight: w, bias: b }) => ops.linear(input, w, b);
      x = ops.device.scope(() => {
        const normed = ops.layerNorm(x, layer.norm1.weight, layer.norm1.bias, eps);
        const [q, k, v] = [layer.q, layer.k, layer.v].map((part) => split(linear(normed, part)));
        const y = ops.attention(q, k, v, attentionScale(h / heads), false).reshape(x.dims);
        const attended = ops.add(x, linear(y, layer.out));
        const fed = linear(ops.gelu(linear(ops.layerNorm(attended, layer.norm2.weight, layer.norm2.bias, eps), layer.fc1)), layer.fc2);
        return ops.add(attended, fed);
      });
    }
    return ops.layerNorm(x, this.postNorm.weight, this.postNorm.bias, eps);
  }
}

/** The Llama decoder. */
class Llama {
  static async load(loader, config) {
    const { hidden: h, inter, vocab, layers, heads, kvHeads, headDim: d } = config.text;
    const name = "model.text_model";
    const decoder = new Llama();
    decoder.config = config.text;
    decoder.embedTokens = await loader.get(`${name}.embed_tokens.weight`, [vocab, h]);
    decoder.layers = [];
    for (let i = 0; i < layers; i += 1) {
      const layer = `${name}.layers.${i}`;
      const weight = (part, dims) => loader.get(`${layer}.${part}.weight`, dims);
      decoder.layers.push({
        inputNorm: await weight("input_layernorm", [h]),
        q: await weight("self_attn.q_proj", [heads * d, h]),
        k: await weight("self_attn.k_proj", [kvHeads * d, h]),
        v: await weight("self_attn.v_proj", [kvHeads * d, h]),
        o: await weight("self_attn.o_proj", [h, heads * d]),
        postNorm: await weight("post_attention_layernorm", [h]),
        gate: await weight("mlp.gate_proj", [inter, h]),
        up: await weight("mlp.up_proj", [inter, h]),
        down: await weight("mlp.down_proj", [h, inter]),
      });
    }
    decoder.norm = await loader.get(`${name}.norm.weight`, [h]);
    decoder.head = config.tied ? decoder.embedTokens : await loader.get("lm_head.weight", [vocab, h]);
    return decoder;
  }

  /** Hidden states after the final norm of embeddings `[1, new, hidden]` that follow what the cache holds. */
  forward(ops, embeds, cache) {
    const { heads, kvHeads, headDim: d, eps, theta } = this.config;
    const [, count] = embeds.dims;
    const positions = cache.advance(count);
    let x = embeds;
    this.layers.forEach((layer, i) => {
      x = ops.device.scope(() => {
        const normed = ops.rmsNorm(x, layer.inputNorm, eps);
        const split = (weight, n) => ops.linear(normed, weight).reshape([1, count, n, d]);
        const q = ops.rope(split(layer.q, heads), positions, theta);
        const k = ops.rope(split(layer.k, kvHeads), positions, theta);
        const [keys, values] = cache.append(ops, i, k, split(layer.v, kvHeads));
        const y = ops.attention(q, keys, values, attentionScale(d), true);
        const attended = ops.add(x, ops.linear(y.reshape([1, count, heads * d]), layer.o));
        const fed = ops.rmsNorm(attended, layer.postNorm, eps);
        const hidden = ops.gatedSilu(ops.linear(fed, layer.gate), ops.linear(fed, layer.up));
        return ops.add(attended, ops.linear(hidden, layer.down));
      });
    });
    return ops.rmsNorm(x, this.norm, eps);
  }
}

/** Keys and values of all layers, and the positions of tokens. */
class Cache {
  constructor(ops, config, dtype) {
    const { positions: capacity, layers, kvHeads, headDim } = config;
    this.capacity = capacity;
    this.length = 0;
    const fresh = () => ops.device.tensor(dtype, [1, capacity, kvHeads, headDim]);
    this.layers = Array.from({ length: layers }, () => [fresh(), fresh()]);
    const ids = Uint32Array.from({ length: capacity }, (_, i) => i);
    this.positions = ops.stream.upload("u32", [1, capacity], ids);
  }

  /** Takes the next `count` places; their positions u32 `[1, count]`. */
  advance(count) {
    if (this.length + count > this.capacity) {
      throw new Error(`${this.length + count} tokens: the model was made for at most ${this.capacity}; shorten the case`);
    }
    this.length += count;
    return this.positions.narrow(1, this.length - count, count);
  }

  /** Writes keys and values of the places taken last; views of all of them. */
  append(ops, layer, k, v) {
    const [, count] = k.dims;
    return [k, v].map((fresh, i) => {
      const all = this.layers[layer][i];
      ops.write(all.narrow(1, this.length - count, count), fresh);
      return all.narrow(1, 0, this.length);
    });
  }
}

/** The whole model on a device. */
export class SmolVlm {
  /**
   * @param {import("./ops.js").Ops} ops
   * @param {object} config of {@link readConfig}
   * @param {import("./safetensors.js").Safetensors} weights
   * @param {"bf16" | "f32"} dtype of the arithmetic
   */
  static async load(ops, config, weights, dtype, onProgress = () => {}) {
    const model = new SmolVlm();
    const loader = new Loader(ops, weights, dtype, onProgress);
    Object.assign(model, { ops, config, dtype });
    model.vision = await Siglip.load(loader, config);
    const shuffled = config.vision.hidden * config.scale ** 2;
    model.connector = await loader.get("model.connector.modality_projection.proj.weight", [config.text.hidden, shuffled]);
    model.text = await Llama.load(loader, config);
    model.cache = new Cache(ops, config.text, dtype);
    // The chosen token and the one before it, in turns: a kernel cannot read and write one buffer.
    model.tokens = [0, 1].map(() => ops.device.tensor("u32", [1]));
    return model;
  }

  /** Rows `[tiles · tokens, hidden]` that stand for an image of pixels f32 `[tiles, 3, edge, edge]`. */
  imageFeatures(pixels) {
    const { ops, config: { grid, scale, vision, text } } = this;
    return ops.device.scope(() => {
      const tiles = pixels.dims[0];
      const features = this.vision.forward(ops, pixels, this.dtype);
      // Each output token gathers a block of scale × scale patches, row by row.
      const [out, e] = [grid / scale, vision.hidden];
      const blocks = features.reshape([tiles, out, scale, out, scale, e]).permute([0, 1, 3, 2, 4, 5]);
      const shuffled = ops.cast(blocks).reshape([tiles * out * out, scale * scale * e]);
      return ops.linear(shuffled, this.connector).reshape([tiles * out * out, text.hidden]);
    });
  }

  /** Reads a prompt in which `features` take the places of image tokens; the first new token is then in `this.token`. */
  prefill(ids, features) {
    const { ops, config: { imageToken, text } } = this;
    const places = ids.flatMap((id, i) => (id === imageToken ? [i] : []));
    if (places.length !== features.dims[0]) {
      throw new Error(`${places.length} image tokens in the prompt but ${features.dims[0]} image features`);
    }
    this.cache.length = 0;
    this.steps = 0;
    ops.device.scope(() => {
      const upload = (values) => ops.stream.upload("u32", [values.length], Uint32Array.from(values));
      const embeds = ops.scatterRows(ops.embedding(this.text.embedTokens, upload(ids)), features, upload(places));
      const hidden = this.text.forward(ops, embeds.reshape([1, ids.length, text.hidden]), this.cache);
      this.#choose(hidden.narrow(1, ids.length - 1, 1));
    });
  }

  /** Reads the token chosen last and chooses the next. */
  step() {
    const { ops } = this;
    ops.device.scope(() => {
      const embeds = ops.embedding(this.text.embedTokens, this.token.reshape([1, 1]));
      this.#choose(this.text.forward(ops, embeds, this.cache));
    });
  }

  /** The likeliest token after `hidden [1, 1, hidden]`. Rows of the head beyond the tokenizer's vocabulary are never chosen. */
  #choose(hidden) {
    const { ops, config: { text } } = this;
    const logits = ops.linear(hidden, this.text.head).reshape([1, text.vocab]);
    this.token = this.tokens[this.steps % 2];
    this.steps += 1;
    ops.argmax(logits.narrow(1, 0, Math.min(this.vocabulary ?? text.vocab, text.vocab)), this.token);
  }
}
