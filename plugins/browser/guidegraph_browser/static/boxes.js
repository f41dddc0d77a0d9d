// The boxes of a layout, which a pointer moves and resizes: what it changes is written into the field of the boxes.

import { readLines } from "./form.js";

const LEAST = 0.05; // the least side of a box that is resized
const NEW = [0.3, 0.4, 0.7, 0.8]; // the box of an object that has none yet
const MOST = 4;

/** The fields {objects, boxes} of the layout that a page places; null without one. */
export function findLayout(plan, fields) {
  const placed = plan.find(({ op, in: { objects, boxes } }) => op === "layout.place" && objects && boxes);
  const [objects, boxes] = [placed?.in.objects, placed?.in.boxes].map((name) => fields.get(name?.replace(/^params\./, "")));
  return objects && boxes ? { objects, boxes } : null;
}

/** An area as the picture, with a box for each line of the field of boxes and the name from the field of objects. */
export function makeBoxEditor({ objects, boxes }) {
  const area = Object.assign(document.createElement("div"), { className: "layout", title: "drag a box to move it, its corner to resize it" });
  const readNames = () => objects.value.split("\n").map((line) => line.trim()).filter(Boolean);
  const readBoxes = () => {
    try {
      return readLines("boxes", { type: "numbers", many: true }, boxes.value);
    } catch {
      return []; // while it is being written
    }
  };
  const write = (places) => {
    boxes.value = places.map((box) => box.map((edge) => Number(edge.toFixed(3))).join(", ")).join("\n");
  };
  const show = () => {
    const names = readNames();
    area.replaceChildren(...readBoxes().map((_, i) => makeBox(area, names[i] ?? "", i, readBoxes, write)));
  };
  boxes.addEventListener("input", show);
  objects.addEventListener("input", show);
  objects.addEventListener("change", () => {
    const places = readBoxes();
    const missing = Math.min(readNames().length, MOST) - places.length;
    if (missing > 0) write([...places, ...Array(missing).fill(NEW)]);
    show();
  });
  show();
  return area;
}

function makeBox(area, name, i, readBoxes, write) {
  const element = Object.assign(document.createElement("div"), { className: "box", textContent: name });
  const corner = Object.assign(document.createElement("div"), { className: "corner" });
  element.append(corner);
  const place = ([left, top, right, bottom]) => Object.assign(element.style, {
    left: `${left * 100}%`, top: `${top * 100}%`, width: `${(right - left) * 100}%`, height: `${(bottom - top) * 100}%`,
  });
  place(readBoxes()[i]);
  element.addEventListener("pointerdown", (start) => {
    start.preventDefault();
    element.setPointerCapture(start.pointerId);
    const { width, height } = area.getBoundingClientRect();
    const first = readBoxes()[i];
    const move = (event) => {
      const [across, down] = [(event.clientX - start.clientX) / width, (event.clientY - start.clientY) / height];
      const box = start.target === corner ? resizeBox(first, across, down) : moveBox(first, across, down);
      write(readBoxes().map((other, at) => (at === i ? box : other)));
      place(box);
    };
    element.addEventListener("pointermove", move);
    element.addEventListener("lostpointercapture", () => element.removeEventListener("pointermove", move), { once: true });
  });
  return element;
}

/** A box moved by some shares of the sides, inside of the picture. */
export function moveBox([left, top, right, bottom], across, down) {
  const [x, y] = [Math.min(Math.max(across, -left), 1 - right), Math.min(Math.max(down, -top), 1 - bottom)];
  return [left + x, top + y, right + x, bottom + y];
}

/** A box whose right and lower edge are moved, inside of the picture and beyond its left and upper edge. */
export function resizeBox([left, top, right, bottom], across, down) {
  return [left, top, Math.min(Math.max(right + across, left + LEAST), 1), Math.min(Math.max(bottom + down, top + LEAST), 1)];
}
