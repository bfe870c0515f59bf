// config.json and preprocessor_config.json of SmolVLM (Idefics3): what the page needs of them, checked.

const positive = (n) => Number.isFinite(n) && n > 0;
const size = (n) => Number.isInteger(n) && n > 0 && n <= 1 << 20;
const LONGEST_EDGE = 16384;

/** Reads keys of one section of a file; errors name file and key. */
class Section {
  constructor(origin, name, json) {
    if (typeof json !== "object" || json === null) {
      throw new Error(`${origin}: ${name || "it"} is missing or no object`);
    }
    this.origin = origin;
    this.prefix = name ? `${name}.` : "";
    this.json = json;
  }

  fail(key, reason) {
    return new Error(`${this.origin}: ${this.prefix}${key} is ${JSON.stringify(this.json[key]) ?? "missing"}; ${reason}`);
  }

  get(key, valid, reason, fallback) {
    const value = this.json[key] ?? fallback;
    if (!valid(value)) {
      throw this.fail(key, reason);
    }
    return value;
  }

  size(key, fallback) {
    return this.get(key, size, "expected a whole number above 0", fallback);
  }

  positive(key, fallback) {
    return this.get(key, positive, "expected a positive number", fallback);
  }

  /** Refuses what the forward pass does not know. */
  only(key, wanted, fallback = wanted) {
    this.get(key, (value) => value === wanted, `this page runs only ${JSON.stringify(wanted)}`, fallback);
  }
}

/** The sizes of a model from its config.json. */
export function readConfig(json, origin) {
  const top = new Section(origin, "", json);
  top.get("model_type", (t) => t === "idefics3" || t === "smolvlm", "this page runs SmolVLM: idefics3 or smolvlm");
  const t = new Section(origin, "text_config", json.text_config);
  const v = new Section(origin, "vision_config", json.vision_config);
  t.only("hidden_act", "silu");
  t.only("attention_bias", false);
  t.only("mlp_bias", false);
  t.only("rope_scaling", null, null);
  v.only("hidden_act", "gelu_pytorch_tanh");
  v.only("num_channels", 3);
  const heads = t.size("num_attention_heads");
  const hidden = t.size("hidden_size");
  const text = {
    vocab: t.size("vocab_size"),
    hidden,
    inter: t.size("intermediate_size"),
    layers: t.size("num_hidden_layers"),
    heads,
    kvHeads: t.size("num_key_value_heads", heads),
    headDim: t.size("head_dim", hidden / heads),
    eps: t.positive("rms_norm_eps", 1e-5),
    theta: t.positive("rope_theta"),
    positions: t.size("max_position_embeddings"),
  };
  if (text.heads % text.kvHeads !== 0) {
    throw t.fail("num_key_value_heads", `must divide num_attention_heads ${heads}`);
  }
  if (text.headDim % 2 !== 0) {
    throw t.fail("head_dim", "must be even: rotary positions turn pairs");
  }
  const vision = {
    hidden: v.size("hidden_size"),
    inter: v.size("intermediate_size"),
    layers: v.size("num_hidden_layers"),
    heads: v.size("num_attention_heads"),
    image: v.size("image_size"),
    patch: v.size("patch_size"),
    eps: v.positive("layer_norm_eps", 1e-6),
  };
  if (vision.hidden % vision.heads !== 0) {
    throw v.fail("num_attention_heads", `must divide hidden_size ${vision.hidden}`);
  }
  const grid = Math.floor(vision.image / vision.patch);
  const scale = top.size("scale_factor", 2);
  if (grid % scale !== 0) {
    throw top.fail("scale_factor", `must divide the ${grid} patches of an edge`);
  }
  const imageToken = top.get("image_token_id", (id) => Number.isInteger(id) && id >= 0 && id < text.vocab, "expected an id of the vocabulary");
  const eos = [json.eos_token_id ?? json.text_config.eos_token_id ?? []].flat();
  const tied = json.tie_word_embeddings ?? false;
  return { text, vision, grid, scale, tokensPerTile: (grid / scale) ** 2, imageToken, eos, tied };
}

/** How images are cut and scaled, from preprocessor_config.json. */
export function readPreprocessor(json, origin) {
  const top = new Section(origin, "", json);
  for (const step of ["do_resize", "do_rescale", "do_normalize"]) {
    top.only(step, true);
  }
  // 1 is Lanczos.
  top.only("resample", 1);
  const edge = (key) => new Section(origin, key, json[key]).get(
    "longest_edge", (n) => size(n) && n <= LONGEST_EDGE, `expected 1 to ${LONGEST_EDGE} pixels`);
  const channels = (key, valid) => top.get(
    key, (list) => Array.isArray(list) && list.length === 3 && list.every(valid), "expected three numbers", [0.5, 0.5, 0.5]);
  return {
    split: json.do_image_splitting ?? true,
    longestEdge: edge("size"),
    tileEdge: edge("max_image_size"),
    rescale: top.positive("rescale_factor", 1 / 255),
    mean: channels("image_mean", Number.isFinite),
    std: channels("image_std", positive),
  };
}
