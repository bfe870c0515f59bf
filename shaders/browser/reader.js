// From an image file to a report: everything but the page.

import { ShaderFiles } from "./assemble.js";
import { readConfig, readPreprocessor } from "./config.js";
import { Device } from "./device.js";
import { MODEL_FILES, optionalJson, requiredJson } from "./files.js";
import { decodeImage } from "./image.js";
import { Stream } from "./launch.js";
import { SmolVlm } from "./model.js";
import { KERNELS, Ops } from "./ops.js";
import { Processor } from "./processor.js";
import { checkTemplate, checkVocabulary, encodeQuestion } from "./prompt.js";
import { Planes } from "./resample.js";
import { Safetensors } from "./safetensors.js";
import { Tokenizer } from "./tokenizer.js";

/** Decode steps that are recorded before the first of them is read back: the device is never idle while the page waits for it. */
const AHEAD = 3;

/** Opens the GPU and fetches the kernels. */
export async function openGpu(options) {
  const files = new ShaderFiles(new URL("../", import.meta.url));
  const [device] = await Promise.all([Device.open(options), files.load(["common/float", ...KERNELS])]);
  return new Ops(new Stream(device, files));
}

/** The chat template among a model's files, with its origin. */
async function findTemplate(folder) {
  const jinja = await folder.open("chat_template.jinja");
  if (jinja) {
    return [await jinja.text(), `${folder.name}/chat_template.jinja`];
  }
  for (const name of ["chat_template.json", "tokenizer_config.json"]) {
    const given = (await optionalJson(folder, name))?.chat_template;
    const template = Array.isArray(given) ? given.find((entry) => entry.name === "default")?.template : given;
    if (template) {
      return [template, `${folder.name}/${name}`];
    }
  }
  return [null, folder.name];
}

/** A model that reads images. */
export class Reader {
  /**
   * @param {Ops} ops
   * @param {ServedFolder | ChosenFiles} folder in Hugging Face layout
   * @param {"bf16" | "f32"} dtype of the arithmetic
   * @param {(what: string, done: number, of: number) => void} onProgress
   */
  static async open(ops, folder, dtype, onProgress) {
    const origin = (name) => `${folder.name}/${name}`;
    const reader = new Reader();
    const config = readConfig(await requiredJson(folder, "config.json"), origin("config.json"));
    const preprocessor = readPreprocessor(await requiredJson(folder, "preprocessor_config.json"), origin("preprocessor_config.json"));
    if (preprocessor.tileEdge !== config.vision.image) {
      throw new Error(`${folder.name}: tiles of ${preprocessor.tileEdge} pixels for a tower of ${config.vision.image}; the files do not belong together`);
    }
    const tokenizer = new Tokenizer(await requiredJson(folder, "tokenizer.json"), origin("tokenizer.json"));
    checkVocabulary(tokenizer, config, origin("tokenizer.json"));
    checkTemplate(...await findTemplate(folder));
    const generation = await optionalJson(folder, "generation_config.json");
    const eos = [generation?.eos_token_id ?? []].flat();
    const stops = new Set(eos.length > 0 ? eos : config.eos);
    if (stops.size === 0) {
      throw new Error(`${folder.name}: no token that ends an answer (eos_token_id)`);
    }
    const blob = await folder.open("model.safetensors", (seen, of) => onProgress("fetching", seen, of));
    if (!blob) {
      throw new Error(`${folder.name} has no model.safetensors. A model is a folder in Hugging Face layout: ${MODEL_FILES.slice(0, 4).join(", ")}.`);
    }
    const weights = await Safetensors.open(origin("model.safetensors"), blob);
    const model = await SmolVlm.load(ops, config, weights, dtype, (done, of) => onProgress("loading", done, of));
    model.vocabulary = tokenizer.size;
    Object.assign(reader, {
      ops, model, config, tokenizer, stops, dtype,
      processor: new Processor(preprocessor), name: folder.name, parameters: weights.parameters,
    });
    onProgress("compiling", 0, 0);
    await reader.#warmUp();
    return reader;
  }

  /** Runs everything once on a grey image, so that the first report does not wait for compilers. */
  async #warmUp() {
    const grey = new Planes(64, 64, [new Uint8Array(64 * 64).fill(128)]);
    for await (const _ of this.#generate(grey, "", 2, {})) {
      // The tokens mean nothing.
    }
  }

  /**
   * Reads an image.
   * @param {Blob} blob a PNG, JPEG or WebP file
   * @param {string} name of the file, for errors
   * @param {object} options
   * @param {string} [options.clinicalCase]
   * @param {number} [options.most] tokens of an answer
   * @param {AbortSignal} [options.signal]
   * @param {(text: string) => void} [options.onText] sees the answer grow
   * @returns {Promise<{text: string, ids: number[], finish: string, promptIds: number[], tiles: Uint8Array[][], times: object}>}
   */
  async read(blob, name, { clinicalCase = "", most = 256, signal, onText = () => {} } = {}) {
    const started = performance.now();
    const image = await decodeImage(blob, name);
    const notes = { decoded: performance.now() - started };
    const ids = [];
    const writer = this.tokenizer.stream();
    let text = "";
    let finish = "length";
    for await (const id of this.#generate(image, clinicalCase, most, notes)) {
      notes.first ??= performance.now() - started;
      if (this.stops.has(id)) {
        finish = "stop_token";
        break;
      }
      ids.push(id);
      text += writer.push(id);
      onText(text.trimStart());
      if (signal?.aborted) {
        finish = "cancelled";
        break;
      }
    }
    text = (text + writer.finish()).trim();
    const total = performance.now() - started;
    const times = { decode: notes.decoded, resize: notes.resized, first: notes.first, total, launches: notes.launches() };
    return { text, ids, finish, promptIds: notes.promptIds, tiles: notes.tiles, times };
  }

  /** Tokens of the answer, the one that ends it included. */
  async *#generate(image, clinicalCase, most, notes) {
    const { ops, model, config } = this;
    const { stream, device } = ops;
    const began = stream.total;
    notes.launches = () => stream.total - began;
    const resizing = performance.now();
    const tiles = this.processor.process(image);
    notes.resized = performance.now() - resizing;
    notes.tiles = tiles.tiles;
    const promptIds = encodeQuestion(this.tokenizer, config, tiles, clinicalCase);
    notes.promptIds = promptIds;
    const { vision } = config;
    device.scope(() => {
      const pixels = stream.upload("f32", [tiles.count, 3, vision.image, vision.image], tiles.pixels);
      model.prefill(promptIds, model.imageFeatures(pixels));
    });
    const waiting = [stream.read(model.token, 1)];
    const room = Math.min(most, config.text.positions - promptIds.length + 1);
    try {
      for (let given = 0; given < room; given += 1) {
        while (given + waiting.length < room && waiting.length < AHEAD) {
          model.step();
          waiting.push(stream.read(model.token, 1));
        }
        const [id] = await waiting.shift();
        yield id;
      }
    } finally {
      // What was recorded beyond the end still writes to the cache and the tokens.
      await Promise.allSettled(waiting);
    }
  }
}
