// The operations of a plan that the page computes itself, under their ids in guidegraph_runtime/operations.

import { gaussian, SEED_LIMIT } from "./noise.js";
import { PageError, countElements, readInteger, zeros } from "./tensors.js";
import { Words, unknownWordsMessage } from "./words.js";

const MAX_ELEMENTS = 2 ** 26;
const MAX_LABEL = 2n ** 63n - 1n;

/** Each takes its inputs and settings by name, and `note`, which shows a remark; it returns a value or several by name. */
export const OPERATIONS = {
  "noise.gaussian": ({ like = null, index = null, seed = 0n, shape = null, batch = 1n }) => {
    const count = like && like.dims[0] !== 1 ? like.dims[0] : readCount("batch", batch);
    const sizes = like ? like.dims.slice(1) : shape.map((side, i) => readCount(`shape[${i}]`, side));
    const size = countElements(sizes);
    checkElements(count * size);
    const first = readInteger("seed", seed, 0);
    const last = first + BigInt(count) - 1n;
    if (last >= SEED_LIMIT) throw new PageError(`a seed is from 0 to 2⁶⁴ − 1, found ${last}`);
    const draw = index === null ? null : Number(readInteger("index", index, 0));
    const noise = zeros(like?.dtype === "float64" ? "float64" : "float32", [count, ...sizes]);
    for (let i = 0; i < count; i++) {
      noise.data.set(gaussian(first + BigInt(i), size, draw), i * size);
    }
    return noise;
  },

  "text.tokenize": ({ texts, tokenizer, length = null }, note) => {
    const words = new Words(JSON.parse(new TextDecoder().decode(tokenizer)), length);
    const encoded = [texts].flat().map((text) => words.encode(text));
    const unknown = [...new Set(encoded.flatMap((text) => text.unknown))];
    if (unknown.length) note(unknownWordsMessage(unknown, words.list()));
    const dims = [encoded.length, words.length];
    return {
      ids: { dtype: "int64", dims, data: BigInt64Array.from(encoded.flatMap(({ ids }) => ids), BigInt) },
      mask: { dtype: "bool", dims, data: Uint8Array.from(encoded.flatMap(({ mask }) => mask)) },
    };
  },

  "label.constant": ({ label, batch = null, classes = null }) => {
    const count = batch === null ? 1 : readCount("batch", batch);
    const index = readInteger("label", label, 0);
    const last = classes === null ? MAX_LABEL : readInteger("classes", classes, 1) - 1n;
    if (index > last) throw new PageError(`the classes are 0 … ${last}, found label ${index}`);
    checkElements(count);
    return { dtype: "int64", dims: [count], data: new BigInt64Array(count).fill(index) };
  },

  "image.from_sample": ({ sample }) => {
    const [batch, channels, height, width] = sample.dims;
    if (channels !== 1 && channels !== 3) throw new PageError(`a picture has 3 channels or 1, this sample ${channels}`);
    const size = height * width;
    const image = zeros(sample.dtype, [batch, 3, height, width]);
    for (let i = 0; i < batch * 3; i++) {
      const source = (channels === 3 ? i : Math.floor(i / 3)) * size;
      for (let at = 0; at < size; at++) image.data[i * size + at] = clamp(sample.data[source + at]);
    }
    return image;
  },

  "image.grid": ({ image, columns = null, gap = 2, background = 1 }) => {
    const [batch, channels, height, width] = image.dims;
    if (background < -1 || background > 1) throw new PageError(`background: expected -1 to 1, found ${background}`);
    const space = Number(readInteger("gap", gap, 0));
    const across = Math.min(columns === null ? Math.ceil(Math.sqrt(batch)) : readCount("columns", columns), batch);
    const rows = space + Math.ceil(batch / across) * (height + space);
    const row = space + across * (width + space);
    checkElements(channels * rows * row);
    const sheet = zeros(image.dtype, [1, channels, rows, row]);
    sheet.data.fill(Number(background));
    for (let line = 0; line < batch * channels * height; line++) {
      const [i, channel, y] = [Math.floor(line / height / channels), Math.floor(line / height) % channels, line % height];
      const top = space + Math.floor(i / across) * (height + space) + y;
      const left = space + (i % across) * (width + space);
      sheet.data.set(image.data.subarray(line * width, (line + 1) * width), (channel * rows + top) * row + left);
    }
    return sheet;
  },
};

function clamp(value) {
  return value < -1 ? -1 : value > 1 ? 1 : value; // NaN stays
}

function readCount(name, value) {
  return Number(readInteger(name, value, 1));
}

function checkElements(count) {
  if (count > MAX_ELEMENTS) throw new PageError(`${count} values at once are more than this page computes; draw a smaller batch`);
}
