// Layouts of scenes: placed by a person, and read as tables, as guidegraph_runtime/operations/layout.py.

import { PageError, zeros } from "./tensors.js";
import { roundToEven } from "./picture_files.js";
import { nearWords } from "./words.js";

const f = Math.fround; // the runtime computes in float32
const ON = 2;
const [CENTRE, LOWER, SIZE] = [[0.5, 8], [0.7, 16], [0.25, 6]].map((pair) => pair.map(f));
const ARTICLES = ["a", "an", "the", "one"];
const EDGES = ["left", "top", "right", "bottom"];
const MOST = 4;
const BLANKS = /[\t-\r\x1c-\x20\x85\xa0\u1680\u2000-\u200a\u2028\u2029\u202f\u205f\u3000]+/; // of Python's str.split

/**
 * The layout (1, 81, 1, 4) of objects ("a red car") in boxes [left, top, right, bottom], or side by side in one box, a
 * tensor (1, 1, 4). words: the runtime's: names, nouns, plurals, colours by word, colour_names, and natural colours.
 */
export function placeObjects({ box = null, objects = [], boxes = [] }, words) {
  const places = box ? shareBox(box, boxes, objects) : boxes;
  if (objects.length !== places.length || objects.length > MOST) {
    throw new PageError(`boxes: expected a list of up to ${MOST} objects, and a box for each; found ${count(objects, "object")} and ${count(places, "box")}`);
  }
  const columns = Array.from({ length: MOST }, () => ({ kind: words.names.length, shade: words.colour_names.length, edges: [0, 0, 0, 0], place: [0, 0, 0, 0] }));
  objects.forEach((text, i) => {
    checkBox(text, places[i]);
    const { kind, colour } = readObject(text, words);
    const [left, top, right, bottom] = places[i].map(f);
    const edges = [left, top, right, bottom];
    const centre = f(f(f(left + right) / 2) - CENTRE[0]);
    const [wide, high] = [f(f(right - left) - SIZE[0]), f(f(bottom - top) - SIZE[0])];
    columns[i] = { kind, shade: colour < 0 ? words.colour_names.length : colour, edges, place: [centre * CENTRE[1], f(bottom - LOWER[0]) * LOWER[1], wide * SIZE[1], high * SIZE[1]] };
  });
  const key = ({ kind, edges: [left, top] }) => f(f(2 * kind + left) + f(top / 1024));
  columns.sort((a, b) => key(a) - key(b));
  const [kinds, shades] = [words.names.length + 1, words.colour_names.length + 1];
  const layout = zeros("float32", [1, kinds + shades + 4, 1, MOST]);
  columns.forEach(({ kind, shade, place }, i) => {
    for (const row of [kind, kinds + shade]) layout.data[row * MOST + i] = ON;
    place.forEach((value, k) => { layout.data[(kinds + shades + k) * MOST + i] = value; });
  });
  return layout;
}

function count(list, noun) {
  return list.length === 1 ? `1 ${noun}` : `${list.length} ${noun}${noun.endsWith("x") ? "es" : "s"}`;
}

/** The parts of a box for the objects, from left to right. */
function shareBox({ data }, boxes, objects) {
  if (boxes.length) throw new PageError(`boxes: expected the port 'box' or the setting 'boxes'; found both, and ${count(boxes, "box")}`);
  const [left, top, right, bottom] = data;
  if (objects.length && left < 0) throw new PageError("the mask is empty, so that nothing can be placed in its box: expected one with a white part");
  const step = (right - left) / objects.length;
  const edge = (i) => (i === objects.length ? right : i * step + left);
  return objects.map((_, i) => [edge(i), top, edge(i + 1), bottom]);
}

function checkBox(text, box) {
  const [left, top, right, bottom] = box;
  if (box.length === 4 && left >= 0 && left < right && right <= 1 && top >= 0 && top < bottom && bottom <= 1) return;
  throw new PageError(`boxes: the box of '${text}' is [${EDGES.join(", ")}], from 0 to 1 of the picture's side, with left < right and top < bottom; found [${box.join(", ")}]`);
}

/** The object and the colour that a text names, as indices; −1 for the colour of an object that has no single one. */
export function readObject(text, { names, nouns, plurals, colours, colour_names: colourNames, natural }) {
  const parts = text.toLowerCase().split(BLANKS).filter(Boolean);
  if (ARTICLES.includes(parts[0])) parts.shift();
  const colour = parts.length > 1 && Object.hasOwn(colours, parts[0]) ? colours[parts.shift()] : null;
  const noun = parts.join(" ");
  if (Object.hasOwn(nouns, noun) && !Object.hasOwn(plurals, noun)) return { kind: nouns[noun], colour: colour ?? natural[nouns[noun]] };
  const last = parts.at(-1) ?? "";
  const near = nearWords(Object.hasOwn(plurals, last) ? plurals[last] : last, names).map((name) => `'${name}'`);
  throw new PageError(`objects: '${text}' is not one object: expected an article or none, one of ${colourNames.join(", ")} or none, and one of the `
    + `${names.length} objects, as in 'a red car'; ${near.length ? `did you mean ${near.join(" or ")}?` : `the objects are ${names.join(", ")}`}`);
}

/** The objects of layouts (B, 81, 1, N) as a table of columns: picture, object, colour, and the edges of the box. */
export function listObjects({ dims: [batch, channels, , width], data }, { names, colour_names: colourNames }) {
  const [kinds, shades] = [names.length + 1, colourNames.length + 1];
  const table = Object.fromEntries(["picture", "object", "colour", ...EDGES].map((name) => [name, []]));
  for (let i = 0; i < batch; i++) {
    for (let column = 0; column < width; column++) {
      const read = (row) => data[(i * channels + row) * width + column];
      const largest = (start, end) => {
        let best = start;
        for (let row = start; row < end; row++) if (read(row) > read(best)) best = row;
        return best - start;
      };
      const kind = largest(0, kinds);
      if (kind === kinds - 1) continue;
      const shade = largest(kinds, kinds + shades);
      const [across, lower, wide, high] = [0, 1, 2, 3].map((k) => read(kinds + shades + k));
      const [centre, bottom] = [f(f(across / CENTRE[1]) + CENTRE[0]), f(f(lower / LOWER[1]) + LOWER[0])];
      const [breadth, height] = [wide, high].map((side) => Math.max(f(f(side / SIZE[1]) + SIZE[0]), 0));
      const edges = [f(centre - f(breadth / 2)), f(bottom - height), f(centre + f(breadth / 2)), bottom];
      table.picture.push(i);
      table.object.push(names[kind]);
      table.colour.push(colourNames[shade] ?? "");
      EDGES.forEach((name, k) => table[name].push(toThousandths(Math.min(Math.max(edges[k], 0), 1))));
    }
  }
  return { dtype: "table", dims: [table.picture.length], data: table };
}

/** A number rounded to three digits, as Python does: a half, which is only exact in 1/16, to the even one. */
function toThousandths(value) {
  return Number.isInteger(value * 2000) ? roundToEven(value * 1000) / 1000 : Number(value.toFixed(3));
}
