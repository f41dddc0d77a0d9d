// The pictures that a reader chooses: decoded, put on white, turned and resized as guidegraph_runtime/pictures does.

import { decodePng, isPng } from "./png.js";
import { PageError } from "./tensors.js";

const SUPPORT = 3; // of the Lanczos filter
const PRECISION = 22; // bits of its weights

/** A picture file: of PNG what `decodePng` has; another format, which the browser decodes, is RGB on white. */
export async function readPicture(file, name) {
  const bytes = file instanceof Uint8Array ? file : new Uint8Array(await file.arrayBuffer());
  if (isPng(bytes)) return { ...(await decodePng(bytes, name)), name };
  let bitmap;
  try {
    bitmap = await createImageBitmap(new Blob([bytes]), { colorSpaceConversion: "none" });
  } catch {
    throw new PageError(`${name} is not a picture that this browser can read`);
  }
  const { width, height } = bitmap;
  const context = new OffscreenCanvas(width, height).getContext("2d");
  context.fillStyle = "white";
  context.fillRect(0, 0, width, height);
  context.drawImage(bitmap, 0, 0);
  const { data } = context.getImageData(0, 0, width, height);
  return { name, width, height, mode: "RGB", channels: 3, samples: data.filter((_, i) => i % 4 < 3), byBrowser: true, orientation: 1 };
}

/** A picture as {width, height, data}, RGB of 8 bits: turned by its orientation, and transparent parts over white. */
export function toRgb(picture) {
  const { samples, width, height, mode, palette, transparency } = picture;
  const data = new Uint8Array(3 * width * height);
  const grey = transparency && ["1", "L", "I;16"].includes(mode) ? transparency[0] * 256 + transparency[1] : null;
  const clear = transparency && mode === "RGB" ? [1, 3, 5].map((i) => transparency[i]) : null;
  for (let i = 0; i < width * height; i++) {
    let colour;
    let alpha = 255;
    if (mode === "RGB" || mode === "RGBA") {
      colour = samples.subarray(i * picture.channels, i * picture.channels + 3);
      if (mode === "RGBA") alpha = samples[4 * i + 3];
      else if (clear && clear.every((value, channel) => value === colour[channel])) alpha = 0;
    } else if (mode === "P") {
      const index = samples[i];
      colour = 3 * index + 2 < (palette?.length ?? 0) ? palette.subarray(3 * index, 3 * index + 3) : [0, 0, 0];
      alpha = transparency?.[index] ?? 255;
    } else {
      const value = mode === "LA" ? samples[2 * i] : samples[i];
      const shade = mode === "I;16" ? Math.trunc(value * (1 / 257)) : value;
      colour = [shade, shade, shade];
      if (mode === "LA") alpha = samples[2 * i + 1];
      else if (grey !== null && value === (mode === "I;16" ? grey : grey & 255)) alpha = 0;
    }
    for (let channel = 0; channel < 3; channel++) data[3 * i + channel] = overWhite(colour[channel], alpha);
  }
  return turn({ width, height, data }, picture.orientation);
}

/** A value over white, in the integers of Pillow's alpha_composite. */
function overWhite(value, alpha) {
  if (alpha === 0) return 255;
  const weight = alpha * 128;
  const sum = value * weight + 255 * (255 * 128 - weight) + (0x80 << 7);
  return ((sum >> 8) + sum) >> 8 >> 7;
}

/** Turn and mirror an RGB picture by an orientation of EXIF. */
function turn({ width, height, data }, orientation) {
  if (!(orientation > 1 && orientation < 9)) return { width, height, data };
  const swaps = orientation > 4;
  const [columns, rows] = swaps ? [height, width] : [width, height];
  const turned = new Uint8Array(data.length);
  for (let y = 0; y < rows; y++) {
    for (let x = 0; x < columns; x++) {
      const mirrorsX = [2, 3, 7, 8].includes(orientation);
      const mirrorsY = [3, 4, 6, 7].includes(orientation);
      const [across, down] = swaps ? [y, x] : [x, y];
      const source = (mirrorsY ? height - 1 - down : down) * width + (mirrorsX ? width - 1 - across : across);
      for (let channel = 0; channel < 3; channel++) turned[3 * (y * columns + x) + channel] = data[3 * source + channel];
    }
  }
  return { width: columns, height: rows, data: turned };
}

/** Resize an RGB picture to [height, width]: "crop" it at the centre, "pad" it with white, or "stretch" it. */
export function resizePicture(picture, [height, width], how = "crop") {
  const { width: fromWidth, height: fromHeight } = picture;
  if (fromWidth === width && fromHeight === height) return picture;
  if (how === "stretch") return resample(picture, width, height, [0, 0, fromWidth, fromHeight]);
  const ratio = width / height;
  const own = fromWidth / fromHeight;
  if (how === "crop") {
    const cropWidth = own === ratio || own < ratio ? fromWidth : ratio * fromHeight;
    const cropHeight = own === ratio || own > ratio ? fromHeight : fromWidth / ratio;
    const [left, top] = [(fromWidth - cropWidth) * 0.5, (fromHeight - cropHeight) * 0.5];
    return resample(picture, width, height, [left, top, left + cropWidth, top + cropHeight]);
  }
  const inner = own > ratio
    ? [width, roundToEven((fromHeight / fromWidth) * width)] : own < ratio ? [roundToEven((fromWidth / fromHeight) * height), height] : [width, height];
  const resized = resample(picture, ...inner, [0, 0, fromWidth, fromHeight]);
  const data = new Uint8Array(3 * width * height).fill(255);
  const [left, top] = [roundToEven((width - inner[0]) * 0.5), roundToEven((height - inner[1]) * 0.5)];
  for (let y = 0; y < inner[1]; y++) {
    data.set(resized.data.subarray(3 * y * inner[0], 3 * (y + 1) * inner[0]), 3 * ((top + y) * width + left));
  }
  return { width, height, data };
}

/** The nearest integer, an even one where two are, as Python's round. */
export function roundToEven(value) {
  const floor = Math.floor(value);
  const rest = value - floor;
  return rest < 0.5 ? floor : rest > 0.5 ? floor + 1 : floor + Math.abs(floor % 2);
}

/** Resize a box of a picture with the Lanczos filter, in the integers of Pillow: along the rows, and along the columns. */
function resample({ width, height, data }, toWidth, toHeight, box) {
  const [left, top, right, bottom] = box.map(Math.fround);
  const isTaller = height > toHeight && height - toHeight > 2 * (width - toWidth); // since Pillow 13 the columns are first then
  let [result, columns, rows] = [data, width, height];
  const along = [
    () => {
      if (toWidth === width && !left && right === toWidth) return;
      result = resampleLines(result, { lines: rows, from: width, to: toWidth, step: 3, line: 3 * width, toLine: 3 * toWidth, low: left, high: right });
      columns = toWidth;
    },
    () => {
      if (toHeight === height && !top && bottom === toHeight) return;
      result = resampleLines(result, { lines: columns, from: height, to: toHeight, step: 3 * columns, line: 3, toLine: 3, low: top, high: bottom });
      rows = toHeight;
    },
  ];
  for (const pass of isTaller ? along.reverse() : along) pass();
  return { width: toWidth, height: toHeight, data: result };
}

/** Resample each of some lines, whose pixels are `step` apart, from the part low to high of `from` pixels to `to`. */
function resampleLines(data, { lines, from, to, step, line, toLine, low, high }) {
  const result = new Uint8Array(lines * to * 3);
  const scale = Math.fround(high - low) / to;
  const spread = Math.max(scale, 1);
  for (let i = 0; i < to; i++) {
    const centre = low + (i + 0.5) * scale;
    const first = Math.max(Math.trunc(centre - SUPPORT * spread + 0.5), 0);
    const count = Math.min(Math.trunc(centre + SUPPORT * spread + 0.5), from) - first;
    const weights = Array.from({ length: count }, (_, k) => lanczos((k + first - centre + 0.5) * (1 / spread)));
    const sum = weights.reduce((total, weight) => total + weight, 0);
    const whole = weights.map((weight) => {
      const scaled = (sum ? weight / sum : weight) * 2 ** PRECISION;
      return Math.trunc(scaled < 0 ? scaled - 0.5 : scaled + 0.5);
    });
    for (let at = 0; at < lines; at++) {
      for (let channel = 0; channel < 3; channel++) {
        let value = 2 ** (PRECISION - 1);
        for (let k = 0; k < count; k++) value += data[at * line + (first + k) * step + channel] * whole[k];
        result[at * toLine + i * step + channel] = Math.min(Math.max(value >> PRECISION, 0), 255);
      }
    }
  }
  return result;
}

function lanczos(x) {
  return x >= -SUPPORT && x < SUPPORT ? sinc(x) * sinc(x / SUPPORT) : 0;
}

function sinc(x) {
  return x === 0 ? 1 : Math.sin(x * Math.PI) / (x * Math.PI);
}
