// The page: a form, a worker that draws, and its pictures.

import { findLayout, makeBoxEditor } from "./boxes.js";
import { buildFields, readFields } from "./form.js";

const [form, status, bar, note, pictures, draw, stop] = ["form", "status", "bar", "note", "pictures", "draw", "stop"].map((id) =>
  document.getElementById(id));
const worker = new Worker(new URL("worker.js", import.meta.url), { type: "module" });
let page = null;
let fields = null; // of the form, by the names of the inputs
let drawing = null; // the number of the run that is going on
let runs = 0;

worker.onmessage = ({ data }) => HANDLERS[data.kind](data);
worker.onerror = (event) => fail(event.message || "the worker cannot start: serve the page's folder by http, and open it there");

const HANDLERS = {
  loading({ done, total }) {
    show(`loading, ${megabytes(done)} of ${megabytes(total)} MB`, done / total);
  },
  ready({ page: loaded, threads, checked }) {
    page = loaded;
    document.title = page.name;
    document.getElementById("title").textContent = page.name;
    document.getElementById("about").textContent = `onnxruntime-web ${page.onnxruntime.version} (${page.onnxruntime.license}), `
      + `${threads} ${threads === 1 ? "thread" : "threads"}; bundle ${page.digest.slice(0, 12)}`
      + (checked ? "" : "; files not checked: browsers offer sha256 on https and localhost only");
    fields = buildFields(document.getElementById("fields"), page.inputs, page.tables.ranges);
    const layout = findLayout(page.plan, fields);
    if (layout) layout.boxes.after(makeBoxEditor(layout));
    show("ready", 0);
    setDrawing(null);
  },
  progress({ id, done, total, seconds }) {
    if (id === drawing) show(`step ${done} of ${total}, ${seconds.toFixed(1)} s`, done / total);
  },
  note({ message }) {
    const line = Object.assign(document.createElement("p"), { textContent: message });
    if (![...note.children].some(({ textContent }) => textContent === message)) note.append(line);
  },
  preview({ id, outputs }) {
    if (id === drawing) showPictures(outputs);
  },
  pictures({ outputs, seconds }) {
    showPictures(outputs);
    show(`drawn in ${seconds.toFixed(1)} s`, 1);
    setDrawing(null);
  },
  stopped() {
    show("stopped", 0);
    setDrawing(null);
  },
  failed({ message }) {
    fail(message);
  },
};

form.addEventListener("submit", (event) => {
  event.preventDefault();
  note.replaceChildren();
  try {
    const values = readFields(fields, page.inputs);
    setDrawing((runs += 1));
    show("drawing", 0);
    worker.postMessage({ kind: "draw", id: drawing, values, previews: document.getElementById("previews").checked });
  } catch (error) {
    fail(error.message);
  }
});
stop.addEventListener("click", () => worker.postMessage({ kind: "stop" }));

function setDrawing(id) {
  drawing = id;
  draw.disabled = id !== null || page === null;
  stop.disabled = id === null;
  document.body.dataset.state = id === null ? "idle" : "drawing";
}

function show(text, fraction) {
  status.className = "";
  status.textContent = text;
  bar.value = fraction;
}

function fail(message) {
  show(message, 0);
  status.className = "failed";
  setDrawing(null);
}

function showPictures(outputs) {
  pictures.replaceChildren(...outputs.flatMap(({ name, pictures: drawn, table }) => (table ? [makeTable(table, name)] : drawn.map((picture, i) =>
    makeFigure(picture, drawn.length === 1 ? name : `${name}-${String(i).padStart(4, "0")}`)))));
}

/** A table of columns by name. */
function makeTable(columns, name) {
  const table = Object.assign(document.createElement("table"), { id: `table-${name}` });
  table.createCaption().textContent = name;
  const addRow = (section, tag, cells) =>
    section.insertRow().append(...cells.map((text) => Object.assign(document.createElement(tag), { textContent: String(text) })));
  addRow(table.createTHead(), "th", Object.keys(columns));
  const lists = Object.values(columns);
  const body = table.createTBody();
  for (let i = 0; i < (lists[0]?.length ?? 0); i++) addRow(body, "td", lists.map((list) => list[i]));
  return table;
}

/** A picture with a button that saves it. */
function makeFigure({ width, height, pixels }, name) {
  const canvas = Object.assign(document.createElement("canvas"), { width, height });
  canvas.getContext("2d").putImageData(new ImageData(pixels, width, height), 0, 0);
  canvas.setAttribute("role", "img");
  canvas.setAttribute("aria-label", name);
  const save = Object.assign(document.createElement("button"), { type: "button", textContent: `Save ${name}.png` });
  save.addEventListener("click", () => savePicture(canvas, `${name}.png`));
  const figure = document.createElement("figure");
  figure.append(canvas, save);
  return figure;
}

function savePicture(canvas, file) {
  canvas.toBlob((blob) => {
    const link = Object.assign(document.createElement("a"), { href: URL.createObjectURL(blob), download: file });
    link.click();
    setTimeout(() => URL.revokeObjectURL(link.href));
  });
}

function megabytes(bytes) {
  return (bytes / 1e6).toFixed(1);
}
