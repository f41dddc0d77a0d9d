// Semantic maps: class indices from pictures, and the objects in them, as guidegraph_runtime/operations/semantic.py.

import { PageError, zeros } from "./tensors.js";
import { toRgb } from "./picture_files.js";

const TOLERANCE = 12; // the largest deviation of each channel of a colour
const LEAST_PART = 512; // a connected part is an object if it takes one such part of the map

/**
 * The class indices of a picture: {width, height, indices}. classes: their number, null for those of scenes. scenes: the
 * names and the colours of the classes of scenes.
 */
export function readIndices(picture, classes, scenes) {
  if (picture.byBrowser) throw new PageError(`${picture.name}: a semantic map is a PNG here; browsers do not give the indices of other formats`);
  const { width, height, mode, channels, samples } = picture;
  const refuse = (at, reason) => new PageError(`${picture.name}: ${reason(`row ${Math.floor(at / width)}, column ${at % width}`)}`);
  const count = width * height;
  if (mode === "RGB" || mode === "RGBA") {
    if (classes !== null) {
      throw new PageError(`${picture.name}: colours stand for the classes of scenes alone: for ${classes} classes, give a grey picture, or one with a palette, of their indices`);
    }
    const { data } = toRgb({ ...picture, mode: "RGB", channels, transparency: null, orientation: 1 });
    return { width, height, indices: Array.from({ length: count }, (_, i) => nearestClass(data.subarray(3 * i, 3 * i + 3), scenes, (reason) => refuse(i, reason))) };
  }
  const indices = Array.from({ length: count }, (_, i) => (mode === "1" ? samples[i] / 255 : samples[i * channels]));
  const last = (classes ?? scenes.names.length) - 1;
  const wrong = indices.findIndex((index) => index > last);
  if (wrong >= 0) throw refuse(wrong, (place) => `the value at ${place} is ${indices[wrong]}; classes are 0 to ${last}`);
  return { width, height, indices };
}

function nearestClass(colour, { names, colours }, refuse) {
  const distances = colours.map((other) => Math.max(...other.map((value, i) => Math.abs(value - colour[i]))));
  const nearest = distances.indexOf(Math.min(...distances));
  if (distances[nearest] <= TOLERANCE) return nearest;
  throw refuse((place) => `the colour (${[...colour].join(", ")}) at ${place} stands for no class; the nearest is `
    + `(${colours[nearest].join(", ")}), ${names[nearest]}`);
}

/** Indices as a one-hot map (1, K, H, W) of K classes, resized to [height, width] by the nearest pixel. */
export function toOneHot({ width, height, indices }, size, classes) {
  const [rows, columns] = size ?? [height, width];
  const pick = (source, target) => {
    const scale = Math.fround(source / target);
    return Array.from({ length: target }, (_, i) => Math.min(Math.trunc(Math.fround(Math.fround(i + 0.5) * scale)), source - 1));
  };
  const [down, across] = [pick(height, rows), pick(width, columns)];
  const map = zeros("float32", [1, classes, rows, columns]);
  for (let y = 0; y < rows; y++) {
    for (let x = 0; x < columns; x++) map.data[(indices[down[y] * width + across[x]] * rows + y) * columns + x] = 1;
  }
  return map;
}

/** Up to `most` objects in each of some maps (B, K, H, W): their classes and boxes, −1 for none. */
export function findObjects({ dims: [batch, count, height, width], data }, objects, most) {
  if (data.some((value) => !Number.isFinite(value))) throw new PageError("semantic: expected finite values; found NaN or an infinity");
  const kinds = { dtype: "int64", dims: [batch, most], data: new BigInt64Array(batch * most).fill(-1n) };
  const boxes = { dtype: "float32", dims: [batch, most, 4], data: new Float32Array(batch * most * 4).fill(-1) };
  const size = height * width;
  for (let i = 0; i < batch; i++) {
    const classes = Array.from({ length: size }, (_, at) => {
      let best = 0;
      for (let k = 1; k < count; k++) if (data[(i * count + k) * size + at] > data[(i * count + best) * size + at]) best = k;
      return best;
    });
    const parts = findParts(classes, width).filter(({ kind, pixels }) => kind < objects && pixels * LEAST_PART >= size);
    const largest = parts.toSorted((a, b) => b.pixels - a.pixels).slice(0, most).sort((a, b) => a.first - b.first);
    largest.forEach(({ kind, left, top, right, bottom }, at) => {
      kinds.data[i * most + at] = BigInt(kind);
      boxes.data.set([left / width, top / height, (right + 1) / width, (bottom + 1) / height], (i * most + at) * 4);
    });
  }
  return { object: kinds, box: boxes };
}

/** The parts of a map of classes that are connected along sides, in the order of their first pixels. */
function findParts(classes, width) {
  const seen = new Uint8Array(classes.length);
  const parts = [];
  for (let first = 0; first < classes.length; first++) {
    if (seen[first]) continue;
    const kind = classes[first];
    const part = { first, kind, pixels: 0, left: width, top: classes.length, right: 0, bottom: 0 };
    const open = [first];
    seen[first] = 1;
    while (open.length) {
      const at = open.pop();
      const [x, y] = [at % width, Math.floor(at / width)];
      part.pixels += 1;
      Object.assign(part, { left: Math.min(part.left, x), right: Math.max(part.right, x), top: Math.min(part.top, y), bottom: Math.max(part.bottom, y) });
      for (const next of [x > 0 ? at - 1 : -1, x + 1 < width ? at + 1 : -1, at - width, at + width]) {
        if (next < 0 || next >= classes.length || seen[next] || classes[next] !== kind) continue;
        seen[next] = 1;
        open.push(next);
      }
    }
    parts.push(part);
  }
  return parts;
}
