// The operations of a plan that the page computes itself, under their ids in guidegraph_runtime/operations.

import { listObjects, placeObjects } from "./layout.js";
import { gaussian, SEED_LIMIT } from "./noise.js";
import { resizePicture, toRgb } from "./picture_files.js";
import { findObjects, readIndices, toOneHot } from "./semantic.js";
import { PageError, cast, countElements, readInteger, toTensor, zeros } from "./tensors.js";
import { Words, unknownWordsMessage } from "./words.js";

const MAX_ELEMENTS = 2 ** 26;
const MAX_LABEL = 2n ** 63n - 1n;

/** Each takes its inputs and settings by name, and `note`, which shows a remark; it returns a value or several by name. */
export const OPERATIONS = {
  "noise.gaussian": ({ like = null, index = null, seed = 0n, shape = null, batch = 1n }) => {
    const sizes = like ? like.dims.slice(1) : shape.map((side, i) => readCount(`shape[${i}]`, side));
    const size = countElements(sizes);
    const seeds = Array.isArray(seed) ? seed.map((item, i) => readInteger(`seed[${i}]`, item, 0)) : null;
    let count = like && like.dims[0] !== 1 ? like.dims[0] : readCount("batch", batch);
    if (seeds && count === 1) count = seeds.length;
    if (seeds && (!count || count !== seeds.length)) throw new PageError(`${seeds.length} seeds cannot fill a batch of ${count}`);
    checkElements(count * size);
    const first = seeds ? 0n : readInteger("seed", seed, 0);
    const last = seeds ? seeds.reduce((a, b) => (a > b ? a : b)) : first + BigInt(count) - 1n;
    if (last >= SEED_LIMIT) throw new PageError(`a seed is from 0 to 2⁶⁴ − 1, found ${last}`);
    const draw = index === null ? null : Number(readInteger("index", index, 0));
    const noise = zeros(like?.dtype === "float64" ? "float64" : "float32", [count, ...sizes]);
    for (let i = 0; i < count; i++) {
      noise.data.set(gaussian(seeds ? seeds[i] : first + BigInt(i), size, draw), i * size);
    }
    return { ...noise, isNoise: true };
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
    const count = batch === null ? null : readCount("batch", batch);
    if (Array.isArray(label) && (!label.length || (count !== null && label.length !== count))) {
      throw new PageError(`${label.length} labels do not make a batch of ${count ?? 1}: give one label, or a list with one for each picture`);
    }
    checkElements(count ?? 1);
    const labels = (Array.isArray(label) ? label : Array(count ?? 1).fill(label)).map((item) => readInteger("label", item, 0));
    const last = classes === null ? MAX_LABEL : readInteger("classes", classes, 1) - 1n;
    const wrong = labels.find((index) => index > last);
    if (wrong !== undefined) throw new PageError(`the classes are 0 … ${last}, found label ${wrong}`);
    return { dtype: "int64", dims: [labels.length], data: BigInt64Array.from(labels) };
  },

  "guidance.interval": ({ t, scale = 7.5, low = 0, high = Infinity, "schedule.alphas_bar": bar = null, "schedule.form": form }) => {
    if (low > high) throw new PageError(`no noise level is from ${low} to ${high}: low must not be above high`);
    const levels = Array.from(toTensor(t).data, (time) => (bar ? noiseLevel(bar.data, form, Number(time)) : Math.fround(Number(time))));
    const inside = levels.map((level) => level >= Math.fround(low) && level <= Math.fround(high));
    const { dims, data } = toTensor(scale);
    if (levels.length === 1 && !dims.length) return toTensor(inside[0] ? Number(data[0]) : 1);
    const count = Math.max(levels.length, data.length);
    const at = (items, i) => items[items.length === 1 ? 0 : i];
    return { dtype: "float32", dims: [count], data: Float32Array.from({ length: count }, (_, i) => (at(inside, i) ? at(data, i) : 1)) };
  },

  "image.load": (settings) => loadPicture(settings),

  "mask.load": ({ path, size = null, threshold = 0.5 }) => {
    const { dims: [, , height, width], data } = loadPicture({ path, size });
    const [area, level] = [height * width, Math.fround(threshold)];
    if (!(threshold >= 0 && threshold <= 1)) throw new PageError(`threshold: expected a number of at least 0 and at most 1, found ${threshold}`);
    const mask = zeros("float32", [1, 1, height, width]);
    for (let i = 0; i < area; i++) { // in float32, as the runtime computes
      const mean = Math.fround(Math.fround(Math.fround(data[i] + data[area + i]) + data[2 * area + i]) / 3);
      mask.data[i] = Math.fround(Math.fround(mean + 1) / 2) > level ? 1 : 0;
    }
    return mask;
  },

  "mask.bounds": ({ mask: { dims: [batch, , height, width], data } }) => {
    const boxes = zeros("float32", [batch, 1, 4]);
    boxes.data.fill(-1);
    for (let i = 0; i < batch; i++) {
      let [left, top, right, bottom] = [width, height, -1, -1];
      for (let at = 0; at < height * width; at++) {
        if (!(data[i * height * width + at] > 0.5)) continue;
        const [x, y] = [at % width, Math.floor(at / width)];
        [left, top, right, bottom] = [Math.min(left, x), Math.min(top, y), Math.max(right, x), Math.max(bottom, y)];
      }
      if (right >= 0) boxes.data.set([left / width, top / height, (right + 1) / width, (bottom + 1) / height], 4 * i);
    }
    return boxes;
  },

  "layout.place": ({ box, objects, boxes, ...words }) => placeObjects({ box, objects, boxes }, words),

  "layout.table": ({ layout, ...words }) => listObjects(layout, words),

  "semantic.load": ({ path, size = null, classes = null, names, colours }) => {
    const count = classes === null ? null : readCount("classes", classes);
    return toOneHot(readIndices(path, count, { names, colours }), readSides(size), count ?? names.length);
  },

  "semantic.boxes": ({ semantic, objects = null, most = 4 }) =>
    findObjects(semantic, objects === null ? semantic.dims[1] : readCount("objects", objects), readCount("most", most)),

  "tensor.cat": ({ axis = 0, ...inputs }) => {
    const tensors = listInputs(inputs, "tensors");
    const dims = [...tensors[0].dims];
    const along = (dims.length + Number(axis)) % dims.length;
    const others = (tensor) => tensor.dims.filter((_, i) => i !== along).join(", ");
    if (tensors.some((tensor) => tensor.dims.length !== dims.length || others(tensor) !== others(tensors[0]))) {
      throw new PageError(`tensors must be alike but for axis ${axis}; found shapes ${tensors.map((tensor) => `(${tensor.dims.join(", ")})`).join(" and ")}`);
    }
    dims[along] = tensors.reduce((sum, tensor) => sum + tensor.dims[along], 0);
    const dtype = tensors.find((tensor) => tensor.dtype === "float64")?.dtype ?? tensors[0].dtype;
    const [inner, outer] = [countElements(dims.slice(along + 1)), countElements(dims.slice(0, along))];
    checkElements(countElements(dims));
    const result = zeros(dtype, dims);
    let start = 0;
    for (const tensor of tensors) {
      const piece = tensor.dims[along] * inner;
      const { data } = cast(tensor, dtype);
      for (let i = 0; i < outer; i++) result.data.set(data.subarray(i * piece, (i + 1) * piece), i * dims[along] * inner + start);
      start += piece;
    }
    return result;
  },

  "scheduler.add_noise": ({ x0, noise, "scheduler.alpha": alphas, "scheduler.sigma": sigmas, "state.index": index = null }) => {
    const row = index === null ? 0 : Number(toTensor(index).data[0]);
    if (row < 0 || row > alphas.dims[0]) throw new PageError(`state.index: expected a row from 0 to ${alphas.dims[0]}, found ${row}`);
    const dtype = x0.dtype === "float64" ? "float64" : "float32";
    const round = dtype === "float64" ? (value) => value : Math.fround;
    const [alpha, sigma] = [round(alphas.data[row] ?? 1), round(sigmas.data[row] ?? 0)];
    const [batch, size] = [Math.max(x0.dims[0], noise.dims[0]), countElements(noise.dims.slice(1))];
    if (String(x0.dims.slice(1)) !== String(noise.dims.slice(1)) || [x0, noise].some(({ dims }) => dims[0] !== 1 && dims[0] !== batch)) {
      throw new PageError(`x0 and noise: the shapes (${x0.dims.join(", ")}) and (${noise.dims.join(", ")}) do not fit`);
    }
    const noisy = zeros(dtype, [batch, ...noise.dims.slice(1)]);
    const at = ({ dims }, i) => (dims[0] === 1 ? i % size : i);
    for (let i = 0; i < batch * size; i++) {
      noisy.data[i] = round(alpha * round(x0.data[at(x0, i)])) + round(sigma * round(noise.data[at(noise, i)]));
    }
    return noisy;
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

/** The noise level at a time, σ/α, or σ of a flow, from ᾱ of each timestep; between them as noise_levels.py of the runtime. */
function noiseLevel(alphasBar, form, time) {
  const isFlow = form === "flow";
  const at = Math.min(Math.max(Math.fround(time), 0), alphasBar.length - 1);
  const value = (row) => {
    const logRatio = 0.5 * (Math.log1p(-alphasBar[row]) - Math.log(alphasBar[row]));
    return isFlow ? 1 / (1 + Math.exp(-logRatio)) : logRatio;
  };
  const low = Math.floor(at);
  const level = at === low ? value(low) : value(low) + (at - low) * (value(low + 1) - value(low));
  if (isFlow) return Math.fround(level);
  const ratio = Math.exp(level);
  if (ratio === Infinity) return Infinity;
  const scale = Math.hypot(1, ratio);
  return Math.fround(Math.fround(ratio / scale) / Math.fround(1 / scale));
}

/** A picture file as an image (1, 3, H, W): 0 to 255 as -1 to 1. */
function loadPicture({ path, size = null, resize = "crop" }) {
  const picture = toRgb(path);
  const sides = readSides(size);
  const { width, height, data } = sides ? resizePicture(picture, sides, resize) : picture;
  const image = zeros("float32", [1, 3, height, width]);
  for (let i = 0; i < height * width; i++) {
    for (let channel = 0; channel < 3; channel++) {
      image.data[channel * height * width + i] = Math.fround(data[3 * i + channel] / 127.5) - 1;
    }
  }
  return image;
}

/** [height, width] of a setting `size`, which may be one side; null if it is not set. */
function readSides(size) {
  if (size === null) return null;
  const sides = Array.isArray(size) ? size.map((side) => readCount("size", side)) : [readCount("size", size), readCount("size", size)];
  checkElements(3 * sides[0] * sides[1]);
  return sides;
}

/** The values of a port that is a list, which are linked as PORT.0, PORT.1, … */
function listInputs(inputs, port) {
  return Object.keys(inputs).filter((name) => name.startsWith(`${port}.`)).map((_, i) => inputs[`${port}.${i}`]);
}

function clamp(value) {
  return value < -1 ? -1 : value > 1 ? 1 : value; // NaN stays
}

function readCount(name, value) {
  return Number(readInteger(name, value, 1));
}

function checkElements(count) {
  if (count > MAX_ELEMENTS) throw new PageError(`${count} values at once are more than this page computes; draw a smaller batch`);
}
