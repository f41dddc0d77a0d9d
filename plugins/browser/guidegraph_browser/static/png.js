// PNG files, decoded to the samples that Pillow has in its modes: browsers give neither indices nor 16 bits of grey.

import { PageError } from "./tensors.js";

const SIGNATURE = [137, 80, 78, 71, 13, 10, 26, 10];
const CHANNELS = { 0: 1, 2: 3, 3: 1, 4: 2, 6: 4 };
const DEPTHS = { 0: [1, 2, 4, 8, 16], 2: [8, 16], 3: [1, 2, 4, 8], 4: [8, 16], 6: [8, 16] };
const MODES = { 0: "L", 2: "RGB", 3: "P", 4: "LA", 6: "RGBA" };
// Adam7: the first column and row of each pass, and the steps to the next ones.
const PASSES = [[0, 0, 8, 8], [4, 0, 8, 8], [0, 4, 4, 8], [2, 0, 4, 4], [0, 2, 2, 4], [1, 0, 2, 2], [0, 1, 1, 2]];
const MAX_PIXELS = 2 ** 26;
const ORIENTATION = 0x0112; // the tag of EXIF
const XMP = new TextEncoder().encode("XML:com.adobe.xmp\0");
const MAX_TEXT = 2 ** 20; // bytes of a packed text, as for Pillow

export function isPng(bytes) {
  return SIGNATURE.every((byte, i) => bytes[i] === byte);
}

/**
 * The picture of a PNG: its mode (1, L, I;16, P, RGB, LA or RGBA), its samples row by row, those of 16 bits and colours
 * or alpha as their upper 8; its palette (RGB), the contents of tRNS, and the orientation of its EXIF or XMP data. Grey
 * and alpha of 16 bits are RGBA.
 */
export async function decodePng(bytes, name) {
  const refuse = (reason) => new PageError(`${name} cannot be read as a picture: ${reason}`);
  const { IHDR: [header] = [], PLTE: [palette = null] = [], tRNS: [transparency = null] = [], eXIf = [], iTXt = [], IDAT } = readChunks(bytes);
  if (!header || header.length < 13 || !IDAT) throw refuse("it ends too early");
  const view = new DataView(header.buffer, header.byteOffset);
  const [width, height, depth, type, interlaced] = [view.getUint32(0), view.getUint32(4), header[8], header[9], header[12]];
  if (!DEPTHS[type]?.includes(depth) || interlaced > 1 || !width || !height) throw refuse("its header is not valid");
  if (width * height > MAX_PIXELS) throw refuse(`it has ${width} × ${height} pixels, and this page reads up to ${MAX_PIXELS}`);
  const channels = CHANNELS[type];
  const passes = (interlaced ? PASSES : [[0, 0, 1, 1]])
    .map(([left, top, across, down]) => ({ left, top, across, down, columns: Math.ceil((width - left) / across), rows: Math.ceil((height - top) / down) }))
    .filter(({ columns, rows }) => columns > 0 && rows > 0);
  const lineBytes = ({ columns }) => Math.ceil((columns * channels * depth) / 8);
  const size = passes.reduce((sum, pass) => sum + pass.rows * (1 + lineBytes(pass)), 0);
  let data;
  try {
    data = await inflate(IDAT, size);
  } catch {
    throw refuse("its data is damaged");
  }
  if (data.length < size) throw refuse("it ends too early");
  const isWide = depth === 16 && type === 0;
  const samples = new (isWide ? Uint16Array : Uint8Array)(width * height * channels);
  const scale = type === 0 && depth < 8 ? 255 / (2 ** depth - 1) : 1;
  let start = 0;
  for (const pass of passes) {
    const line = lineBytes(pass);
    unfilter(data, start, pass.rows, line, Math.max(1, (channels * depth) / 8), refuse);
    for (let row = 0; row < pass.rows; row++) {
      const first = start + row * (line + 1) + 1;
      for (let column = 0; column < pass.columns; column++) {
        const pixel = (pass.top + row * pass.down) * width + pass.left + column * pass.across;
        for (let channel = 0; channel < channels; channel++) {
          const at = column * channels + channel;
          samples[pixel * channels + channel] = depth === 16
            ? (isWide ? data[first + 2 * at] * 256 + data[first + 2 * at + 1] : data[first + 2 * at])
            : depth === 8 ? data[first + at] : scale * ((data[first + ((at * depth) >> 3)] >> (8 - depth - ((at * depth) & 7))) & (2 ** depth - 1));
        }
      }
    }
    start += pass.rows * (line + 1);
  }
  const picture = { width, height, palette, transparency, orientation: readOrientation(eXIf.at(-1)) ?? (await readXmpOrientation(iTXt)) ?? 1 };
  if (type === 4 && depth === 16) {
    return { ...picture, mode: "RGBA", channels: 4, samples: Uint8Array.from({ length: 4 * width * height }, (_, i) => samples[2 * (i >> 2) + (i % 4 === 3)]) };
  }
  return { ...picture, mode: type !== 0 ? MODES[type] : depth === 1 ? "1" : isWide ? "I;16" : "L", channels, samples };
}

/** The contents of the chunks by their types, each a list. */
function readChunks(bytes) {
  const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.length);
  const chunks = {};
  for (let at = SIGNATURE.length; at + 8 <= bytes.length;) {
    const length = view.getUint32(at);
    const type = String.fromCharCode(...bytes.subarray(at + 4, at + 8));
    if (type === "IEND") break;
    (chunks[type] ??= []).push(bytes.subarray(at + 8, at + 8 + length));
    at += 12 + length;
  }
  return chunks;
}

/** The first `size` bytes of what zlib packed in some chunks, or fewer if there are no more. */
async function inflate(chunks, size) {
  const result = new Uint8Array(size);
  let length = 0;
  const reader = new Blob(chunks).stream().pipeThrough(new DecompressionStream("deflate")).getReader();
  while (length < size) {
    const { done, value } = await reader.read();
    if (done) break;
    const piece = value.subarray(0, size - length);
    result.set(piece, length);
    length += piece.length;
  }
  reader.cancel().catch(() => {});
  return result.subarray(0, length);
}

/** Undo the filters of the lines of a pass in place; each line follows the byte of its filter. */
function unfilter(data, start, rows, line, step, refuse) {
  for (let row = 0; row < rows; row++) {
    const at = start + row * (line + 1);
    const kind = data[at];
    if (kind > 4) throw refuse(`it has a filter ${kind}`);
    for (let i = 0; i < line; i++) {
      const here = at + 1 + i;
      const left = i >= step ? data[here - step] : 0;
      const above = row ? data[here - line - 1] : 0;
      const corner = row && i >= step ? data[here - line - 1 - step] : 0;
      data[here] += kind === 1 ? left : kind === 2 ? above : kind === 3 ? (left + above) >> 1 : kind === 4 ? nearest(left, above, corner) : 0;
    }
  }
}

/** The filter of Paeth. */
function nearest(left, above, corner) {
  const [a, b, c] = [Math.abs(above - corner), Math.abs(left - corner), Math.abs(left + above - 2 * corner)];
  return a <= b && a <= c ? left : b <= c ? above : corner;
}

/** The orientation in EXIF data, which is a directory of TIFF; null if there is none. */
function readOrientation(exif) {
  if (!exif) return null;
  const view = new DataView(exif.buffer, exif.byteOffset, exif.length);
  const isLittle = exif[0] === 0x49;
  try {
    const directory = view.getUint32(4, isLittle);
    for (let i = 0; i < view.getUint16(directory, isLittle); i++) {
      const entry = directory + 2 + 12 * i;
      if (view.getUint16(entry, isLittle) === ORIENTATION) return view.getUint16(entry + 8, isLittle);
    }
  } catch {
    // A directory beyond the end of the data has no orientation, as for Pillow.
  }
  return null;
}

/** The orientation in XMP data, the text of an iTXt chunk; null if there is none. */
async function readXmpOrientation(chunks) {
  let orientation = null;
  for (const chunk of chunks) {
    if (!XMP.every((byte, i) => chunk[i] === byte)) continue;
    let at = XMP.length + 2; // behind it are the language and the keyword in that language
    for (let i = 0; i < 2; i++) at = chunk.indexOf(0, at) + 1 || chunk.length;
    const isPacked = chunk[XMP.length];
    const text = isPacked ? await inflate([chunk.subarray(at)], MAX_TEXT).catch(() => []) : chunk.subarray(at);
    orientation = /tiff:Orientation(?:="|>)([0-9])/.exec(new TextDecoder().decode(Uint8Array.from(text)))?.[1] ?? null;
  }
  return orientation === null ? null : Number(orientation);
}
