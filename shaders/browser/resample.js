// Pillow's Lanczos resampling, bit for bit: the arithmetic of model/src/image/resample.rs. Two passes in fixed point, horizontal then
// vertical, each rounded to bytes.

/** Bits behind the point: a byte, times a weight, plus two bits of headroom for the sum, fill an i32. */
const PRECISION = 32 - 8 - 2;
const HALF = 2 ** (PRECISION - 1);

/** An 8-bit image of one plane after the other: grey, or red, green, blue. */
export class Planes {
  /**
   * @param {number} width
   * @param {number} height
   * @param {Uint8Array[]} planes one or three of width · height bytes
   */
  constructor(width, height, planes) {
    this.width = width;
    this.height = height;
    this.planes = planes;
  }

  /** Of `[height, width, 4]` bytes; alpha is dropped, and one plane is kept if the channels are equal everywhere. */
  static fromRgba(width, height, rgba) {
    const area = width * height;
    let grey = true;
    for (let i = 0; grey && i < 4 * area; i += 4) {
      grey = rgba[i] === rgba[i + 1] && rgba[i + 1] === rgba[i + 2];
    }
    const plane = (channel) => {
      const out = new Uint8Array(area);
      for (let i = 0; i < area; i += 1) {
        out[i] = rgba[4 * i + channel];
      }
      return out;
    };
    return new Planes(width, height, grey ? [plane(0)] : [0, 1, 2].map(plane));
  }

  /** The image with another size. */
  resize(width, height) {
    let { planes } = this;
    if (width !== this.width) {
      const weights = lanczosWeights(this.width, width);
      planes = planes.map((plane) => horizontal(plane, this.width, this.height, width, weights));
    }
    if (height !== this.height) {
      const weights = lanczosWeights(this.height, height);
      planes = planes.map((plane) => vertical(plane, width, height, weights));
    }
    return new Planes(width, height, planes);
  }

  /** The part of `edge × edge` pixels from (left, top). */
  tile(left, top, edge) {
    return this.planes.map((plane) => {
      const out = new Uint8Array(edge * edge);
      for (let y = 0; y < edge; y += 1) {
        const from = (top + y) * this.width + left;
        out.set(plane.subarray(from, from + edge), y * edge);
      }
      return out;
    });
  }
}

/** For every output index, the first input index and the weights from there on. */
function lanczosWeights(from, to) {
  const scale = from / to;
  const filterScale = Math.max(scale, 1);
  const support = 3 * filterScale;
  const inverse = 1 / filterScale;
  return Array.from({ length: to }, (_, o) => {
    const centre = (o + 0.5) * scale;
    const first = Math.max(Math.trunc(centre - support + 0.5), 0);
    const last = Math.min(Math.trunc(centre + support + 0.5), from);
    const window = Array.from({ length: last - first }, (_unused, i) => lanczos3((first + i - centre + 0.5) * inverse));
    const sum = window.reduce((a, b) => a + b, 0);
    return { first, weights: Int32Array.from(window, (w) => fixedPoint(w / sum)) };
  });
}

function lanczos3(x) {
  return x >= -3 && x < 3 ? sinc(x) * sinc(x / 3) : 0;
}

function sinc(x) {
  if (x === 0) {
    return 1;
  }
  const angle = x * Math.PI;
  return Math.sin(angle) / angle;
}

function fixedPoint(weight) {
  const scaled = weight * 2 ** PRECISION;
  return Math.trunc(weight < 0 ? scaled - 0.5 : scaled + 0.5);
}

function rounded(sum) {
  const value = sum >> PRECISION;
  return value < 0 ? 0 : value > 255 ? 255 : value;
}

function horizontal(source, width, height, to, windows) {
  const out = new Uint8Array(to * height);
  for (let y = 0; y < height; y += 1) {
    for (let o = 0; o < to; o += 1) {
      const { first, weights } = windows[o];
      let sum = HALF;
      for (let j = 0, at = y * width + first; j < weights.length; j += 1, at += 1) {
        sum = (sum + source[at] * weights[j]) | 0;
      }
      out[y * to + o] = rounded(sum);
    }
  }
  return out;
}

function vertical(source, width, to, windows) {
  const out = new Uint8Array(width * to);
  const sums = new Int32Array(width);
  for (let o = 0; o < to; o += 1) {
    const { first, weights } = windows[o];
    sums.fill(HALF);
    for (let j = 0; j < weights.length; j += 1) {
      const weight = weights[j];
      for (let x = 0, at = (first + j) * width; x < width; x += 1, at += 1) {
        sums[x] += source[at] * weight;
      }
    }
    for (let x = 0; x < width; x += 1) {
      out[o * width + x] = rounded(sums[x]);
    }
  }
  return out;
}
