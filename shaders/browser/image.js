// Image files: what they are, whether they are whole, and their pixels. PNG is decoded here, since a canvas would lose 16-bit grey and
// multiply with alpha; JPEG and WebP by the browser, without colour management and rotation, as the program does.

import { decodePng } from "./png.js";
import { Planes } from "./resample.js";

const MOST_PIXELS = 100_000_000;
const MOST_BYTES = 512 * 2 ** 20;

/** Formats that are not read, by their first bytes, for an error that helps. */
const OTHERS = [
  [128, "DICM", "a DICOM file"], [0, "GIF8", "a GIF image"], [0, "II*\0", "a TIFF image"], [0, "MM\0*", "a TIFF image"],
  [0, "BM", "a BMP image"], [4, "jP  ", "a JPEG 2000 image"], [0, "%PDF", "a PDF document"],
];

function formatOf(bytes, name) {
  const isAt = (at, magic) => [...magic].every((c, i) => bytes[at + i] === c.charCodeAt(0));
  if (bytes.length === 0) {
    throw new Error(`${name}: the file is empty`);
  }
  if (isAt(0, "\x89PNG\r\n\x1a\n")) {
    return "PNG";
  }
  if (isAt(0, "\xff\xd8\xff")) {
    return "JPEG";
  }
  if (isAt(0, "RIFF") && isAt(8, "WEBP")) {
    return "WebP";
  }
  const other = OTHERS.find(([at, magic]) => isAt(at, magic));
  const what = other ? other[2] : "something else";
  throw new Error(`${name}: not a PNG, JPEG or WebP image but ${what}; convert it to PNG first`);
}

/**
 * The parts of a JPEG file that make its pixels: without metadata (EXIF's rotation, colour profiles), which browsers would apply and the
 * program does not.
 * @returns {Uint8Array[] | null} `null` if the end marker is missing
 */
function jpegWithoutMetadata(bytes) {
  const parts = [bytes.subarray(0, 2)];
  let at = 2;
  let from = 2;
  for (;;) {
    // The next marker: 0xff, perhaps repeated, and a byte that is neither 0 (a stuffed 0xff of the entropy-coded data) nor a restart.
    at = bytes.indexOf(0xff, at);
    if (at < 0) {
      return null;
    }
    const marker = at;
    while (bytes[at] === 0xff) {
      at += 1;
    }
    const kind = bytes[at];
    if (kind === undefined) {
      return null;
    }
    if (kind === 0xd9) {
      parts.push(bytes.subarray(from, at + 1));
      return parts;
    }
    if (kind === 0x00 || kind === 0x01 || (kind >= 0xd0 && kind <= 0xd8)) {
      at += 1;
      continue;
    }
    if (at + 2 >= bytes.length) {
      return null;
    }
    const end = at + 1 + Math.max(bytes[at + 1] * 256 + bytes[at + 2], 2);
    // APP1 is EXIF and XMP, APP2 the colour profile. (APP14 tells RGB from YCbCr and stays.)
    if (kind === 0xe1 || kind === 0xe2) {
      parts.push(bytes.subarray(from, marker));
      from = end;
    }
    at = end;
  }
}

/** Pixels as the browser decodes them, `[height, width, 4]`. */
async function canvasPixels(blob, name, format) {
  let bitmap;
  try {
    bitmap = await createImageBitmap(blob, { colorSpaceConversion: "none", premultiplyAlpha: "none" });
  } catch (e) {
    throw new Error(`${name}: the ${format} data cannot be decoded: ${e.message}`);
  }
  const { width, height } = bitmap;
  checkSize(name, width, height);
  const context = new OffscreenCanvas(width, height).getContext("2d", { willReadFrequently: true });
  context.drawImage(bitmap, 0, 0);
  bitmap.close();
  return { width, height, rgba: context.getImageData(0, 0, width, height).data };
}

function checkSize(name, width, height) {
  if (width * height > MOST_PIXELS) {
    throw new Error(`${name}: ${width}×${height} pixels, more than the limit of ${MOST_PIXELS}; scale the image down first`);
  }
}

/**
 * The pixels of an image file.
 * @param {Blob} blob
 * @param {string} name for errors
 * @returns {Promise<Planes>}
 */
export async function decodeImage(blob, name) {
  if (blob.size > MOST_BYTES) {
    throw new Error(`${name}: ${blob.size} bytes, more than the limit of ${MOST_BYTES}`);
  }
  const bytes = new Uint8Array(await blob.arrayBuffer());
  const format = formatOf(bytes, name);
  if (format === "PNG") {
    return decodePng(bytes, name, (width, height) => checkSize(name, width, height));
  }
  let source = blob;
  if (format === "JPEG") {
    const parts = jpegWithoutMetadata(bytes);
    if (!parts) {
      throw new Error(`${name}: the JPEG data end too early; the file is cut off`);
    }
    source = new Blob(parts, { type: "image/jpeg" });
  }
  const { width, height, rgba } = await canvasPixels(source, name, format);
  return Planes.fromRgba(width, height, rgba);
}
