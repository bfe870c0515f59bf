// A kernel's parameters by the names of its own `struct Params`: the layout is read from the assembled WGSL, so that a parameter that
// moves, comes or goes is noticed here and never shifts the others.

const SCALARS = { u32: 4, i32: 4, f32: 4 };

/** The fields of `struct name` in a WGSL text: `[{name, type}]`. */
function fieldsOf(text, name) {
  const found = new RegExp(`struct ${name} \\{([^}]*)\\}`).exec(text);
  if (!found) {
    throw new Error(`the kernel has no struct ${name}`);
  }
  const body = found[1].replace(/\/\/.*$/gm, "");
  // Commas inside of `array<vec4<u32>, 4>` are followed by a number.
  return body.split(/,(?!\s*\d)/).map((f) => f.trim()).filter(Boolean).map((field) => {
    const [fieldName, type] = field.split(":").map((s) => s.trim());
    return { name: fieldName, type };
  });
}

/**
 * Where each scalar of a uniform struct lies (WGSL 14.4.1): structs inside it are aligned to 16 bytes. Only what the kernels use is
 * known: u32, i32, f32, structs of these, and `View`.
 */
function layoutOf(text, name) {
  let at = 0;
  const fields = new Map();
  for (const { name: field, type } of fieldsOf(text, name)) {
    if (type in SCALARS) {
      fields.set(field, { at, type });
      at += SCALARS[type];
      continue;
    }
    at = Math.ceil(at / 16) * 16;
    if (type === "array<vec4<u32>, 4>") {
      fields.set(field, { at, type: "words", words: 16 });
      at += 64;
    } else {
      const inner = layoutOf(text, type);
      fields.set(field, { at, type: "struct", inner });
      at += inner.size;
    }
  }
  return { fields, size: Math.ceil(at / 16) * 16 };
}

/** The layout of a kernel's `struct Params`; `null` if it takes none. */
export function paramsLayout(text) {
  return /^struct Params /m.test(text) ? layoutOf(text, "Params") : null;
}

/**
 * Writes `values` at byte `at` of a DataView. A view's value is an array of 16 words; a struct's an object.
 * @returns {number} bytes written
 */
export function writeParams(layout, values, target, at, kernel) {
  for (const name of Object.keys(values)) {
    if (!layout.fields.has(name)) {
      throw new Error(`${kernel} has no parameter ${name}`);
    }
  }
  for (const [name, field] of layout.fields) {
    if (name.startsWith("unused")) {
      continue;
    }
    const value = values[name];
    const place = at + field.at;
    if (value === undefined) {
      throw new Error(`${kernel}: parameter ${name} is not given`);
    }
    if (field.type === "struct") {
      // A view is a struct of one array of words.
      const inner = Array.isArray(value) ? { words: value } : value;
      writeParams(field.inner, inner, target, place, kernel);
    } else if (field.type === "words") {
      value.forEach((word, i) => target.setUint32(place + 4 * i, word, true));
    } else if (field.type === "f32") {
      target.setFloat32(place, value, true);
    } else if (field.type === "i32") {
      target.setInt32(place, value, true);
    } else {
      if (!Number.isInteger(value) || value < 0 || value > 0xffffffff) {
        throw new Error(`${kernel}: parameter ${name} is ${value}, no u32`);
      }
      target.setUint32(place, value, true);
    }
  }
  return layout.size;
}
