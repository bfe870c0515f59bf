// A PNG decoder (W3C PNG, third edition) for all colour types, depths and both interlace methods, over the browser's own inflate.
// 16-bit grey is shown from its darkest to its brightest value, of 16-bit colour the high byte is kept, alpha is dropped: as the
// program does.

import { Planes } from "./resample.js";

/** Samples of a pixel by colour type: grey, RGB, palette, grey with alpha, RGB with alpha. */
const SAMPLES = { 0: 1, 2: 3, 3: 1, 4: 2, 6: 4 };
const DEPTHS = { 0: [1, 2, 4, 8, 16], 2: [8, 16], 3: [1, 2, 4, 8], 4: [8, 16], 6: [8, 16] };
/** First column, first row and steps of the passes of Adam7. */
const ADAM7 = [[0, 0, 8, 8], [4, 0, 8, 8], [0, 4, 4, 8], [2, 0, 4, 4], [0, 2, 2, 4], [1, 0, 2, 2], [0, 1, 1, 2]];

/**
 * @param {Uint8Array} bytes
 * @param {string} name for errors
 * @param {(width: number, height: number) => void} checkSize asked before memory is taken for the pixels
 * @returns {Promise<Planes>}
 */
export async function decodePng(bytes, name, checkSize) {
  const damaged = (reason) => new Error(`${name}: the PNG data cannot be decoded: ${reason}`);
  const { header, palette, data } = chunks(bytes, name, damaged);
  checkSize(header.width, header.height);
  const passes = header.interlaced ? ADAM7 : [[0, 0, 1, 1]];
  const sizes = passes.map(([x0, y0, dx, dy]) => [Math.ceil((header.width - x0) / dx), Math.ceil((header.height - y0) / dy)]);
  const rowBytes = (width) => Math.ceil((width * header.bits) / 8);
  const needed = sizes.reduce((sum, [w, h]) => sum + (w > 0 && h > 0 ? h * (1 + rowBytes(w)) : 0), 0);
  const filtered = await inflate(data, needed, name, damaged);
  const samples = new Uint16Array(header.width * header.height * header.samples);
  let at = 0;
  passes.forEach(([x0, y0, dx, dy], i) => {
    const [width, height] = sizes[i];
    if (width <= 0 || height <= 0) {
      return;
    }
    const row = rowBytes(width);
    unfilter(filtered.subarray(at, at + height * (1 + row)), row, Math.max(header.bits >> 3, 1), damaged);
    for (let y = 0; y < height; y += 1) {
      const line = filtered.subarray(at + y * (1 + row) + 1, at + (y + 1) * (1 + row));
      unpack(line, width, header, samples, ((y0 + y * dy) * header.width + x0) * header.samples, dx * header.samples);
    }
    at += height * (1 + row);
  });
  return toPlanes(samples, header, palette, damaged);
}

/** Header, palette and compressed data. */
function chunks(bytes, name, damaged) {
  const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);
  const truncated = () => new Error(`${name}: the PNG data end too early; the file is cut off`);
  let header = null;
  let palette = null;
  const data = [];
  for (let at = 8; ;) {
    if (at + 12 > bytes.length) {
      throw truncated();
    }
    const length = view.getUint32(at);
    const kind = String.fromCharCode(...bytes.subarray(at + 4, at + 8));
    const content = bytes.subarray(at + 8, at + 8 + length);
    if (at + 12 + length > bytes.length) {
      throw truncated();
    }
    if (kind !== "IHDR" && !header) {
      throw damaged("it does not begin with its header");
    }
    if (kind === "IHDR") {
      header = readHeader(new DataView(bytes.buffer, content.byteOffset, length), damaged);
    } else if (kind === "PLTE") {
      palette = content;
    } else if (kind === "IDAT") {
      data.push(content);
    } else if (kind === "IEND") {
      return { header, palette, data };
    }
    at += 12 + length;
  }
}

function readHeader(view, damaged) {
  if (view.byteLength !== 13) {
    throw damaged("the header is incomplete");
  }
  const [width, height] = [view.getUint32(0), view.getUint32(4)];
  const [depth, colour, compression, filter, interlace] = [8, 9, 10, 11, 12].map((i) => view.getUint8(i));
  if (width === 0 || height === 0) {
    throw damaged("no pixels");
  }
  if (!DEPTHS[colour]?.includes(depth) || compression !== 0 || filter !== 0 || interlace > 1) {
    throw damaged(`colour type ${colour} of ${depth} bits, methods ${compression}, ${filter}, ${interlace}`);
  }
  const samples = SAMPLES[colour];
  return { width, height, depth, colour, samples, bits: samples * depth, interlaced: interlace === 1 };
}

async function inflate(parts, needed, name, damaged) {
  const stream = new Blob(parts).stream().pipeThrough(new DecompressionStream("deflate"));
  const out = new Uint8Array(needed);
  let seen = 0;
  try {
    for (const reader = stream.getReader(); seen < needed;) {
      const { done, value } = await reader.read();
      if (done) {
        break;
      }
      out.set(value.subarray(0, needed - seen), seen);
      seen += value.length;
    }
  } catch (e) {
    throw damaged(e.message);
  }
  if (seen < needed) {
    throw damaged("there are fewer pixels than the header says");
  }
  return out;
}

/** Undoes the filters of rows in place (PNG 9.2); each row has its filter's number before it. */
function unfilter(rows, row, step, damaged) {
  let above = new Uint8Array(row);
  for (let start = 0; start < rows.length; start += row + 1) {
    const line = rows.subarray(start + 1, start + 1 + row);
    switch (rows[start]) {
      case 0:
        break;
      case 1:
        for (let i = step; i < row; i += 1) {
          line[i] += line[i - step];
        }
        break;
      case 2:
        for (let i = 0; i < row; i += 1) {
          line[i] += above[i];
        }
        break;
      case 3:
        for (let i = 0; i < row; i += 1) {
          line[i] += ((i < step ? 0 : line[i - step]) + above[i]) >> 1;
        }
        break;
      case 4:
        for (let i = 0; i < row; i += 1) {
          line[i] += i < step ? above[i] : paeth(line[i - step], above[i], above[i - step]);
        }
        break;
      default:
        throw damaged(`filter ${rows[start]}`);
    }
    above = line;
  }
}

/** The one of left, above and corner that is nearest to left + above − corner. */
function paeth(a, b, c) {
  const p = a + b - c;
  const [pa, pb, pc] = [Math.abs(p - a), Math.abs(p - b), Math.abs(p - c)];
  if (pa <= pb && pa <= pc) {
    return a;
  }
  return pb <= pc ? b : c;
}

/** Samples of a row of `width` pixels to every `step` places of `out` from `at` on. */
function unpack(line, width, { depth, samples }, out, at, step) {
  for (let x = 0; x < width; x += 1) {
    for (let s = 0; s < samples; s += 1) {
      const i = x * samples + s;
      let value;
      if (depth === 8) {
        value = line[i];
      } else if (depth === 16) {
        value = line[2 * i] * 256 + line[2 * i + 1];
      } else {
        const bit = i * depth;
        value = (line[bit >> 3] >> (8 - depth - (bit & 7))) & ((1 << depth) - 1);
      }
      out[at + x * step + s] = value;
    }
  }
}

function toPlanes(values, { width, height, depth, colour, samples }, palette, damaged) {
  const area = width * height;
  const channel = (c, convert) => {
    const out = new Uint8Array(area);
    for (let i = 0; i < area; i += 1) {
      out[i] = convert(values[i * samples + c]);
    }
    return out;
  };
  if (colour === 3) {
    const colours = palette ? palette.length / 3 : 0;
    if (values.some((index) => index >= colours)) {
      throw damaged(`a pixel beyond the palette of ${colours} colours`);
    }
    return greyOrColour(width, height, [0, 1, 2].map((c) => channel(0, (index) => palette[3 * index + c])));
  }
  const grey = colour === 0 || colour === 4;
  if (grey) {
    return new Planes(width, height, [channel(0, depth === 16 ? fullWindow(values, samples) : (v) => Math.round((v * 255) / (2 ** depth - 1)))]);
  }
  return greyOrColour(width, height, [0, 1, 2].map((c) => channel(c, depth === 16 ? (v) => v >> 8 : (v) => v)));
}

/** The darkest value becomes 0 and the brightest 255: `Window::Full` of model/src/image/window.rs. */
function fullWindow(values, samples) {
  let [min, max] = [65535, 0];
  for (let i = 0; i < values.length; i += samples) {
    min = Math.min(min, values[i]);
    max = Math.max(max, values[i]);
  }
  const [level, extent] = [(min + max) / 2, max - min];
  return extent === 0 ? () => 0 : (v) => Math.round(((v - level) / extent + 0.5) * 255);
}

/** One plane if the three are equal. */
function greyOrColour(width, height, planes) {
  const [r, g, b] = planes;
  const grey = r.every((v, i) => v === g[i] && v === b[i]);
  return new Planes(width, height, grey ? [r] : planes);
}
