// The page's worker: loads the graphs, and draws. All computing is here, so that the page stays responsive.
//
// Messages in: {kind: "draw", id, values, previews} and {kind: "stop"}. Out: loading, ready, progress, note, preview,
// pictures, stopped, failed.

import { CAN_HASH, fetchFile, fetchPage } from "./files.js";
import { FILES } from "./form.js";
import { readPicture } from "./picture_files.js";
import { toPictures } from "./pictures.js";
import { PlanRun, Stopped } from "./plan.js";
import { selectRows } from "./rows.js";
import { PageError, readSafetensors, toTensor } from "./tensors.js";

const BASE = new URL(".", self.location);
const PREVIEW_SHARE = 0.2; // the most of a run's time that previews take
let engine = null;
let stopped = false;

self.onmessage = ({ data }) => {
  if (data.kind === "stop") stopped = true;
  else draw(data);
};

load().catch(({ message }) => post("failed", { message: `the page cannot start: ${message}` }));

async function load() {
  const page = await fetchPage(BASE);
  const names = Object.keys(page.files);
  const total = names.reduce((sum, name) => sum + page.files[name].size, 0);
  let done = 0;
  const files = {};
  for (const name of names) {
    files[name] = await fetchFile(BASE, name, page.files[name], (bytes) => post("loading", { done: (done += bytes), total }));
  }
  const ort = await startOnnxruntime(page.onnxruntime, files);
  const sessions = {};
  for (const [part, { file, externals }] of Object.entries(page.parts)) {
    const externalData = Object.entries(externals).map(([path, name]) => ({ path, data: files[name] }));
    sessions[part] = await ort.InferenceSession.create(files[file], { executionProviders: ["wasm"], externalData });
    delete files[file];
  }
  for (const name of Object.values(page.parts).flatMap(({ externals }) => Object.values(externals))) delete files[name];
  const tensors = readSafetensors(files[page.tables.file].buffer);
  engine = { page, files, ort, sessions, tensors };
  post("ready", { page, threads: ort.env.wasm.numThreads, checked: CAN_HASH });
}

/** Import onnxruntime-web from the bytes that were checked. */
async function startOnnxruntime({ module, glue, wasm }, files) {
  const toUrl = (name) => URL.createObjectURL(new Blob([files[name]], { type: "text/javascript" }));
  const ort = await import(toUrl(module));
  // Threads need memory that they share, which browsers allow only where the server isolates the page.
  ort.env.wasm.numThreads = self.crossOriginIsolated ? Math.min(4, navigator.hardwareConcurrency) : 1;
  ort.env.wasm.wasmPaths = { mjs: toUrl(glue) };
  ort.env.wasm.wasmBinary = files[wasm].buffer;
  for (const name of [module, glue, wasm]) delete files[name];
  return ort;
}

async function draw({ id, values, previews }) {
  stopped = false;
  const { page, tensors } = engine;
  const started = performance.now();
  const getSeconds = () => (performance.now() - started) / 1000;
  const getPictures = (run) =>
    Object.entries(page.outputs).map(([name, { type, source }]) =>
      (type === "image" ? { name, pictures: toPictures(name, run.read(source)) } : { name, table: toColumns(name, run.read(source)) }));
  let nextPreview = 0; // seconds
  const showPreview = async (loop) => {
    const before = getSeconds();
    try {
      const early = await run.endEarly(page.plan, loop);
      if (early) post("preview", { id, outputs: getPictures(early) });
    } catch {
      // An early sample may come out as NaN where the last one does not: this step has no preview.
    }
    nextPreview = getSeconds() + (getSeconds() - before) / PREVIEW_SHARE;
  };
  let run = null;
  try {
    const params = await readParams(values);
    run = new PlanRun({
      values: { ...params, ...selectRows(page.tables.ranges, tensors, values) },
      parts: page.parts,
      files: engine.files,
      call: callGraph,
      note: (message) => post("note", { id, message }),
      progress: async (done, total, loop) => {
        post("progress", { id, done, total, seconds: getSeconds() });
        await new Promise((resolve) => setTimeout(resolve)); // lets "stop" in
        if (stopped) throw new Stopped("stopped");
        if (previews && done < total && getSeconds() >= nextPreview) await showPreview(loop);
      },
    });
    await run.run(page.plan);
    post("pictures", { id, outputs: getPictures(run), seconds: getSeconds() });
  } catch (error) {
    if (error instanceof Stopped) post("stopped", { id });
    else post("failed", { id, message: error instanceof PageError ? error.message : `the page failed: ${error}` });
  }
}

/** The columns of a table by name; other numbers are one column. */
function toColumns(name, value) {
  const { dtype, data } = toTensor(value);
  return dtype === "table" ? data : { [name]: Array.from(data) };
}

/** The parameters of a run by name. Of files it reads the pictures; without a file it is the one of the bundle. */
async function readParams(values) {
  const { page: { inputs }, files } = engine;
  const params = {};
  for (const [name, value] of Object.entries(values)) {
    const isFile = FILES.includes(inputs[name].type);
    params[`params.${name}`] = isFile ? await readPicture(value ?? files[inputs[name].default], `${name}: ${value?.name ?? "the example"}`) : value;
  }
  return params;
}

/** Run the graph of a part on tensors; return its outputs by name. */
async function callGraph(part, inputs) {
  const { ort, sessions } = engine;
  const feeds = {};
  for (const [name, { dtype, dims, data }] of Object.entries(inputs)) feeds[name] = new ort.Tensor(dtype, data, dims);
  const results = await sessions[part].run(feeds);
  return Object.fromEntries(Object.entries(results).map(([name, { type, dims, data }]) => [name, { dtype: type, dims: [...dims], data }]));
}

function post(kind, content) {
  self.postMessage({ kind, ...content });
}
