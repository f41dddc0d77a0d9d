// Pictures (B, 3, H, W) in [-1, 1] as pixels.

import { roundToEven } from "./picture_files.js";
import { PageError, countElements } from "./tensors.js";

/** Each picture as {width, height, pixels}, RGBA from 0 to 255: round((v + 1) · 127.5), clamped. */
export function toPictures(name, { dtype, dims, data }) {
  const [channels, height, width] = dims.slice(-3);
  if (channels !== 3) throw new PageError(`${name}: a picture is (B, 3, H, W), found (${dims})`);
  const bad = data.reduce((count, value) => count + !Number.isFinite(value), 0);
  if (bad) throw new PageError(`${name} is not a picture: ${bad} of ${data.length} values are not finite; look at the scale and the steps`);
  const size = height * width;
  const round = dtype === "float64" ? (value) => value : Math.fround;
  return Array.from({ length: countElements(dims.slice(0, -3)) }, (_, i) => {
    const pixels = new Uint8ClampedArray(4 * size).fill(255);
    for (let channel = 0; channel < 3; channel++) {
      const start = (3 * i + channel) * size;
      for (let at = 0; at < size; at++) pixels[4 * at + channel] = roundToEven(round(round(data[start + at] + 1) * 127.5));
    }
    return { width, height, pixels };
  });
}
