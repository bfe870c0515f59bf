// The image processor of Idefics3 and SmolVLM, as model/src/image/idefics3.rs: from an image to the tiles that the vision tower takes.

import { Planes } from "./resample.js";

/** The first resize: the longest edge becomes `longest`, the other one even and at least 1. */
function longestEdge(width, height, longest) {
  const aspect = width / height;
  const other = (length) => {
    const whole = Math.trunc(length);
    return Math.max(whole + (whole % 2), 1);
  };
  return width >= height ? [longest, other(longest / aspect)] : [other(longest * aspect), longest];
}

/** The second resize: both edges up to multiples of `tile`, the shorter one after the longer. */
function wholeTiles([width, height], tile) {
  const aspect = width / height;
  const up = (length) => Math.ceil(length / tile) * tile;
  if (width >= height) {
    const across = up(width);
    return [across, Math.max(up(Math.trunc(across / aspect)), tile)];
  }
  const down = up(height);
  return [Math.max(up(Math.trunc(down * aspect)), tile), down];
}

/** Cuts images into tiles. */
export class Processor {
  /** @param {object} config of readPreprocessor */
  constructor(config) {
    this.config = config;
    const f = Math.fround;
    // What each byte becomes: the product in f64, the rest in f32, as numpy does it.
    this.table = config.mean.map((mean, c) => Float32Array.from({ length: 256 }, (_, byte) => (
      f(f(f(byte * config.rescale) - f(mean)) / f(config.std[c]))
    )));
  }

  /** Sizes that an image goes through, and rows and columns of tiles (0 × 0: not cut, the global image alone). */
  plan(width, height) {
    const { longestEdge: longest, tileEdge: tile, split } = this.config;
    const first = longestEdge(width, height, longest);
    if (!split) {
      return { first, second: [tile, tile], rows: 0, cols: 0 };
    }
    const second = wholeTiles(first, tile);
    const [cols, rows] = second.map((edge) => edge / tile);
    return rows > 1 || cols > 1 ? { first, second, rows, cols } : { first, second, rows: 0, cols: 0 };
  }

  /**
   * Tiles of an image, row by row, the global image last.
   * @param {Planes} image
   * @returns {{rows: number, cols: number, count: number, edge: number, tiles: Uint8Array[][], pixels: Float32Array}} the bytes of
   *   each tile's planes, and all normalised, `[count, 3, edge, edge]`
   */
  process(image) {
    const { first, second, rows, cols } = this.plan(image.width, image.height);
    const edge = this.config.tileEdge;
    const whole = image.resize(...first).resize(...second);
    const tiles = [];
    for (let row = 0; row < rows; row += 1) {
      for (let col = 0; col < cols; col += 1) {
        tiles.push(whole.tile(col * edge, row * edge, edge));
      }
    }
    tiles.push(whole.resize(edge, edge).planes);
    const area = edge * edge;
    const pixels = new Float32Array(tiles.length * 3 * area);
    tiles.forEach((planes, t) => {
      this.table.forEach((table, c) => {
        const plane = planes.length === 3 ? planes[c] : planes[0];
        const at = (3 * t + c) * area;
        for (let i = 0; i < area; i += 1) {
          pixels[at + i] = table[plane[i]];
        }
      });
    });
    return { rows, cols, count: tiles.length, edge, tiles, pixels };
  }
}
