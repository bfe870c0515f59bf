// Assembling the WGSL source of a kernel: the twin of engine/src/wgpu/{source,accessors}.rs; the former lists the directives. Texts are the
// native ones, byte for byte (tests/browser compares them).

/** Bytes of an element. */
export const BYTES = { f32: 4, bf16: 2, f16: 2, u8: 1, u32: 4, i32: 4 };

const FLOATS = ["f32", "bf16", "f16"];

/** Number of an element type in common/convert.wgsl. */
export const TYPE_NUMBER = { f32: 0, bf16: 1, f16: 2, u8: 3, u32: 4, i32: 5 };

/**
 * How a kernel uses a tensor.
 * Read: reads it. Whole: writes it, an invocation owns whole words. Shared: writes it, words are shared and go through atomics.
 * Uniform: reads it as a uniform, a table of 256 f32.
 */
export const ACCESS = Object.freeze({ Read: "Read", Whole: "Whole", Shared: "Shared", Uniform: "Uniform" });

/** The texts of shaders/, fetched as they are needed. */
export class ShaderFiles {
  /** @param {URL} folder where the .wgsl files are */
  constructor(folder) {
    this.folder = folder;
    this.texts = new Map();
    this.loading = new Map();
  }

  /** Fetches these files (paths without the ending) and all that they include. */
  async load(names) {
    await Promise.all(names.map((name) => this.#loadOne(name)));
  }

  #loadOne(name) {
    if (!this.loading.has(name)) {
      this.loading.set(name, this.#fetch(name));
    }
    return this.loading.get(name);
  }

  async #fetch(name) {
    const url = new URL(`${name}.wgsl`, this.folder);
    const answer = await fetch(url).catch((e) => {
      throw new Error(`${url.pathname} cannot be fetched: ${e.message}`);
    });
    if (!answer.ok) {
      throw new Error(`${url.pathname}: ${answer.status} ${answer.statusText}; the page must be served from the repository's root`);
    }
    const text = await answer.text();
    const included = [...text.matchAll(/^#include "(.*)\.wgsl"/gm)].map((m) => m[1]);
    if (/^#view /m.test(text)) {
      included.push("common/view");
    }
    await this.load(included);
    this.texts.set(name, text);
  }

  /** The text of a loaded file. */
  text(name) {
    const text = this.texts.get(name);
    if (text === undefined) {
      throw new Error(`no shader ${name}`);
    }
    return text;
  }
}

/**
 * What a launch decides about a kernel's source.
 * @typedef {object} Variant
 * @property {Map<string, {dtype: string, access: string}>} tensors bound tensors by name
 * @property {Map<string, number|boolean>} constants values of `#const`
 * @property {Set<string>} dense views that are contiguous
 * @property {Set<string>} wide tensors that are read 16 bytes at a time
 */

/** A text that is the same for equal variants. */
export function variantKey(name, { tensors, constants, dense, wide }) {
  const part = (entries) => entries.sort().join(",");
  const bound = [...tensors].map(([n, t]) => `${n}:${t.dtype}:${t.access}`);
  const values = [...constants].map(([n, v]) => `${n}=${v}`);
  return `${name} [${part(bound)}] [${part(values)}] [${part([...dense])}] [${part([...wide])}]`;
}

/**
 * The assembled source of kernel `name`, and what its bindings are in the order of their numbers:
 * `{kind: "params" | "fault"}` or `{kind: "tensor", name, access}`.
 * @param {ShaderFiles} files with the kernel loaded
 * @param {string} name
 * @param {Variant} variant
 */
export function assemble(files, name, variant) {
  const assembly = new Assembly(files, variant);
  assembly.file("common/float");
  assembly.file(name);
  for (const bound of variant.tensors.keys()) {
    if (!assembly.bindings.some((b) => b.kind === "tensor" && b.name === bound)) {
      throw new Error(`${name} does not bind ${bound}`);
    }
  }
  return { text: assembly.text, bindings: assembly.bindings };
}

/** Lines as Rust's `str::lines` gives them. */
function linesOf(text) {
  const lines = text.split("\n");
  if (lines.at(-1) === "") {
    lines.pop();
  }
  return lines;
}

/** Index of the `#end` that closes a `#repeat` or `#if` before these lines, or -1, and of the `#else` between. */
function matchingEnd(lines) {
  let open = 1;
  let otherwise = -1;
  const end = lines.findIndex((line, i) => {
    const start = line.trimStart();
    if (start.startsWith("#repeat ") || start.startsWith("#if ")) {
      open += 1;
    } else if (start.startsWith("#else") && open === 1) {
      otherwise = i;
    } else if (start.startsWith("#end")) {
      open -= 1;
    }
    return open === 0;
  });
  return { end, otherwise };
}

class Assembly {
  text = "";
  bindings = [];
  included = new Set();
  /** Constants that are numbers. */
  numbers = new Map();
  /** Constants that are true or false. */
  flags = new Map();

  constructor(files, variant) {
    this.files = files;
    this.variant = variant;
  }

  file(name) {
    if (this.included.has(name)) {
      return;
    }
    this.included.add(name);
    this.lines(linesOf(this.files.text(name)), name, 1);
  }

  /** Lines of file `name`, of which the first is number `first`. */
  lines(lines, name, first) {
    for (let i = 0; i < lines.length; i += 1) {
      const fail = (reason) => new Error(`${name}.wgsl:${first + i}: ${reason}`);
      const repeat = lines[i].trimStart();
      if (repeat.startsWith("#if ")) {
        const flag = this.flags.get(repeat.slice("#if ".length).trim());
        if (flag === undefined) {
          throw fail(`${repeat}: no such flag`);
        }
        const { end, otherwise } = matchingEnd(lines.slice(i + 1));
        if (end < 0) {
          throw fail("#if without #end");
        }
        const split = otherwise < 0 ? end : otherwise;
        const [from, to] = flag ? [0, split] : [Math.min(split + 1, end), end];
        this.lines(lines.slice(i + 1 + from, i + 1 + to), name, first + i + 1 + from);
        i += end + 1;
        continue;
      }
      if (!repeat.startsWith("#repeat ")) {
        this.line(lines[i], fail);
        continue;
      }
      const [variable, counted] = repeat.slice("#repeat ".length).trim().split(" ");
      const count = /^\d+$/.test(counted) ? Number(counted) : this.numbers.get(counted);
      if (count === undefined) {
        throw fail(`${counted}: no such number`);
      }
      const { end } = matchingEnd(lines.slice(i + 1));
      if (end < 0) {
        throw fail("#repeat without #end");
      }
      const body = lines.slice(i + 1, i + 1 + end);
      for (let n = 0; n < count; n += 1) {
        this.lines(body.map((l) => l.replaceAll(`$${variable}`, String(n))), name, first + i + 1);
      }
      i += end + 1;
    }
  }

  line(line, fail) {
    if (!line.startsWith("#")) {
      this.push(line);
      return;
    }
    const [, word, tail] = /^#(\S*) ?(.*)$/.exec(line);
    const rest = tail.split("//")[0].trim();
    switch (word) {
      case "include":
        this.file(rest.replaceAll('"', "").replace(/\.wgsl$/, ""));
        break;
      case "const":
        this.constant(rest, fail);
        break;
      case "params":
        this.push(`@group(0) @binding(${this.binding({ kind: "params" })}) var<uniform> p: Params;`);
        break;
      case "bind":
        this.bind(rest, fail);
        break;
      case "view": {
        this.file("common/view");
        const at = this.variant.dense.has(rest) ? `p.${rest}.words[3].x + i` : `place_in(p.${rest}, i)`;
        this.push(`fn at_${rest}(i: u32) -> u32 { return ${at}; }`);
        break;
      }
      case "fault":
        this.push(FAULT.replace("NUMBER", String(this.binding({ kind: "fault" }))));
        break;
      default:
        throw fail(`unknown directive #${word}`);
    }
  }

  push(text) {
    this.text += `${text}\n`;
  }

  binding(binding) {
    this.bindings.push(binding);
    return this.bindings.length - 1;
  }

  constant(rest, fail) {
    const at = rest.indexOf("=");
    if (at < 0) {
      throw fail("expected #const NAME = DEFAULT");
    }
    const name = rest.slice(0, at).trim();
    const given = this.variant.constants.get(name);
    let value = rest.slice(at + 1).trim();
    if (given !== undefined) {
      value = typeof given === "number" ? `${given}u` : String(given);
    }
    if (/^\d+u*$/.test(value)) {
      this.numbers.set(name, Number.parseInt(value, 10));
    }
    if (value === "true" || value === "false") {
      this.flags.set(name, value === "true");
    }
    this.push(`const ${name} = ${value};`);
  }

  bind(rest, fail) {
    const parts = /^(\S+) ([^:]+)(?::(.*))?$/.exec(rest);
    if (!parts) {
      throw fail("expected #bind MODE NAME");
    }
    const [mode, name, fixed] = [parts[1], parts[2].trim(), parts[3]?.trim()];
    const upper = name.toUpperCase();
    const tensor = this.variant.tensors.get(name);
    if (!tensor) {
      // Not given: the kernel looks at the constant and never calls the accessor.
      const [kind, zero] = { u32: ["u32", "0u"], u8: ["u32", "0u"], i32: ["i32", "0"] }[fixed] ?? ["f32", "0.0"];
      this.push(`const ${upper}_BOUND = false;\nfn load_${name}(i: u32) -> ${kind} { return ${zero}; }`);
      if (mode === "read" && fixed === undefined) {
        this.push(`fn oct_${name}(i: u32) -> Oct { return Oct(); }`);
      }
      if (mode === "write" || mode === "update") {
        this.push(`fn put_${name}(i: u32, v: ${kind}) {}`);
      }
      return;
    }
    const { dtype, access } = tensor;
    if (fixed !== undefined && fixed !== dtype) {
      throw fail(`${name} is ${dtype}`);
    }
    const writes = access === ACCESS.Whole || access === ACCESS.Shared;
    const fits = { read: access === ACCESS.Read, write: writes, update: writes, table: access === ACCESS.Uniform }[mode];
    if (!fits) {
      throw fail(`#bind ${mode} ${name} and ${access} do not fit`);
    }
    const n = this.binding({ kind: "tensor", name, access });
    const text = mode === "table"
      ? TABLE.replaceAll("NUMBER", String(n)).replaceAll("NAME", name)
      : accessors(name, n, dtype, access, this.variant.wide.has(name));
    this.push(`const ${upper}_BOUND = true;\n${text}`);
  }
}

/** WGSL of `#fault`. The first invocation to find a bad index leaves it; the kernel goes on with a harmless one. */
const FAULT = `@group(0) @binding(NUMBER) var<storage, read_write> fault_words: array<atomic<u32>, 4>;
fn fault_as(number: u32, value: u32, place: u32) {
    if (atomicMax(&fault_words[0], number) == 0u) {
        atomicStore(&fault_words[1], value);
        atomicStore(&fault_words[2], place);
        atomicStore(&fault_words[3], number);
    }
}
fn fault(value: u32, place: u32) {
    fault_as(p.launch, value, place);
}`;

/** WGSL of `#bind table`. */
const TABLE = `@group(0) @binding(NUMBER) var<uniform> NAME_words: array<vec4<f32>, 64>;
fn load_NAME(i: u32) -> f32 { return NAME_words[i / 4u][i % 4u]; }`;

/** Type in which a kernel sees an element, how its bits become one, and the way back. */
const CONVERSIONS = {
  f32: ["f32", "bitcast<f32>(b)", "bitcast<u32>(v)"],
  bf16: ["f32", "bitcast<f32>(b << 16u)", "bf16_bits(v)"],
  f16: ["f32", "f16_value(b)", "f16_bits(v)"],
  u8: ["u32", "b", "(v & 255u)"],
  u32: ["u32", "b", "v"],
  i32: ["i32", "bitcast<i32>(b)", "bitcast<u32>(v)"],
};

/** Reading several elements of a tensor at a time. */
function several(name, dtype, wide) {
  if (dtype === "u8") {
    const four = wide ? "[i / 16u][(i / 4u) % 4u]" : "[i / 4u]";
    const sixteen = wide
      ? `${name}_words[(i / 4u) / 4u]`
      : `vec4<u32>(${[0, 1, 2, 3].map((k) => `${name}_words[i / 4u + ${k}u]`).join(", ")})`;
    return `// Four bytes from \`i\` on, a multiple of four.\nfn word_${name}(i: u32) -> u32 { return ${name}_words${four}; }\n`
      + `// 16 bytes from \`i\` on, a multiple of 16.\nfn hex_${name}(i: u32) -> vec4<u32> { return ${sixteen}; }`;
  }
  if (!FLOATS.includes(dtype)) {
    return "";
  }
  const quads = { bf16: "bf16_quad", f16: "f16_quad" };
  let body;
  if (wide && dtype === "f32") {
    body = `return Oct(bitcast<vec4<f32>>(${name}_words[(i) / 4u]), bitcast<vec4<f32>>(${name}_words[(i + 4u) / 4u]));`;
  } else if (wide) {
    const quad = quads[dtype];
    body = `let w = ${name}_words[(i / 2u) / 4u]; return Oct(${quad}(w.x, w.y), ${quad}(w.z, w.w));`;
  } else {
    const quad = (k) => `vec4<f32>(${[0, 1, 2, 3].map((j) => `load_${name}(i + ${k + j}u)`).join(", ")})`;
    body = `return Oct(${quad(0)}, ${quad(4)});`;
  }
  return `// Eight elements from \`i\` on, of which \`i\` is a multiple.\nfn oct_${name}(i: u32) -> Oct { ${body} }`;
}

/** The functions through which a kernel reaches a tensor. */
function accessors(name, number, dtype, access, wide) {
  const upper = name.toUpperCase();
  const lanes = 4 / BYTES[dtype];
  const [kind, decode, encode] = CONVERSIONS[dtype];
  const atomic = access === ACCESS.Shared && lanes > 1;
  let out = "";
  const line = (text) => {
    out += `${text}\n`;
  };
  const space = access === ACCESS.Read ? "read" : "read_write";
  const word = atomic ? "atomic<u32>" : wide ? "vec4<u32>" : "u32";
  line(`@group(0) @binding(${number}) var<storage, ${space}> ${name}_words: array<${word}>;`);
  line(`// Elements in a word of ${name}.`);
  line(`const ${upper}_LANES = ${lanes}u;`);
  const place = lanes === 1 ? "i" : `i / ${lanes}u`;
  const plain = wide ? `${name}_words[(${place}) / 4u][(${place}) % 4u]` : `${name}_words[${place}]`;
  const at = atomic ? `atomicLoad(&${name}_words[${place}])` : plain;
  const shift = { 1: "", 2: " >> ((i & 1u) * 16u)) & 0xffffu", 4: " >> ((i & 3u) * 8u)) & 0xffu" }[lanes];
  const bits = lanes === 1 ? `return ${at};` : `return (${at}${shift};`;
  line(`fn raw_${name}(i: u32) -> u32 { ${bits} }`);
  line(`fn decode_${name}(b: u32) -> ${kind} { return ${decode}; }`);
  line(`fn load_${name}(i: u32) -> ${kind} { return decode_${name}(raw_${name}(i)); }`);
  line(`fn encode_${name}(v: ${kind}) -> u32 { return ${encode}; }`);
  if (FLOATS.includes(dtype)) {
    const round = dtype === "f32" ? "v" : `decode_${name}(encode_${name}(v))`;
    line(`// \`v\` rounded to the element type of ${name}.`);
    line(`fn round_${name}(v: f32) -> f32 { return ${round}; }`);
    const each = ["x", "y", "z", "w"].map((c) => `round_${name}(v.${c})`);
    line(`fn round_quad_${name}(v: vec4<f32>) -> vec4<f32> { return ${dtype === "f32" ? "v" : `vec4<f32>(${each.join(", ")})`}; }`);
  }
  if (access === ACCESS.Read) {
    line(several(name, dtype, wide));
    return out;
  }
  let putRaw = "";
  if (lanes === 1) {
    putRaw = `${name}_words[i] = b;`;
  } else if (atomic) {
    const [mask, by] = lanes === 2 ? ["0xffffu", "(i & 1u) * 16u"] : ["0xffu", "(i & 3u) * 8u"];
    putRaw = `let s = ${by}; atomicAnd(&${name}_words[i / ${lanes}u], ~(${mask} << s)); `
      + `atomicOr(&${name}_words[i / ${lanes}u], b << s);`;
  }
  // Else nobody else touches the word: the kernel must call `put_lanes` for it to be whole.
  if (putRaw) {
    line(`fn put_raw_${name}(i: u32, b: u32) { ${putRaw} }`);
    line(`fn put_${name}(i: u32, v: ${kind}) { put_raw_${name}(i, encode_${name}(v)); }`);
  }
  line("// Puts `n` elements from `i` on, at most a word; `i` begins a word unless words are shared.");
  line(`fn put_raw_lanes_${name}(i: u32, b: array<u32, ${lanes}>, n: u32) {`);
  if (putRaw) {
    line(`    var v = b;\n    for (var k = 0u; k < n; k++) { put_raw_${name}(i + k, v[k]); }`);
  } else {
    const joined = Array.from({ length: lanes }, (_, k) => `(b[${k}] << ${(k * 32) / lanes}u)`);
    line(`    ${name}_words[i / ${lanes}u] = ${joined.join(" | ")};`);
  }
  line("}");
  line(`fn put_lanes_${name}(i: u32, v: array<${kind}, ${lanes}>, n: u32) {`);
  line(`    var b: array<u32, ${lanes}>;`);
  for (let k = 0; k < lanes; k += 1) {
    line(`    b[${k}] = encode_${name}(v[${k}]);`);
  }
  line(`    put_raw_lanes_${name}(i, b, n);\n}`);
  return out;
}
