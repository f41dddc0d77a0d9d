// Draws with a bundle of guidegraph-serve: sends a job, follows its events, shows its previews and pictures.

const PARAMS = ["prompt", "seed", "steps", "scale"]; // shown where the bundle has them

const form = document.getElementById("form");
const fields = form.elements;
const [status, warnings, bar, pictures, draw, cancel] = ["status", "warnings", "bar", "pictures", "draw", "cancel"].map((id) =>
  document.getElementById(id));
let connections = 0; // so that an answer for a server or token that was changed meanwhile is dropped
let jobPath = null; // of the job that is going on

for (const name of ["server", "token"]) fields[name].addEventListener("change", connect);
fields.bundle.addEventListener("change", connect);
form.addEventListener("submit", (event) => {
  event.preventDefault();
  drawPictures();
});
cancel.addEventListener("click", async () => {
  try {
    await call(jobPath, { method: "DELETE" });
  } catch (error) {
    fail(error);
  }
});
connect();

/** Lists the bundles, and shows the parameters of the chosen one with their defaults. */
async function connect() {
  const connection = (connections += 1);
  draw.disabled = true; // until the bundle and its parameters are known
  try {
    const { data } = await (await call("/v1/models")).json();
    if (connection !== connections) return;
    const chosen = fields.bundle.value;
    fields.bundle.replaceChildren(...data.map(({ id }) => new Option(id, id, false, id === chosen)));
    const { params } = await (await call(`/v1/workflows/${encodeURIComponent(fields.bundle.value)}`)).json();
    if (connection !== connections) return;
    for (const name of PARAMS) {
      const param = params[name];
      fields[name].closest("label").hidden = !param;
      fields[name].disabled = !param; // fields that are disabled are not sent, and not checked
      fields[name].required = Boolean(param?.required);
      fields[name].placeholder = param?.default ?? "";
      fields[name].title = param?.help ?? "";
    }
    show("ready", 0);
  } catch (error) {
    if (connection === connections) fail(error);
  } finally {
    if (connection === connections) draw.disabled = false;
  }
}

/** Sends a job with the values of the form, and follows it to its end. An empty field takes its default. */
async function drawPictures() {
  setDrawing(true);
  warnings.textContent = "";
  pictures.replaceChildren();
  show("sending", 0);
  try {
    const params = Object.fromEntries(PARAMS.filter((name) => !fields[name].disabled && fields[name].value !== "").map(readField));
    const answer = await call(`/v1/workflows/${encodeURIComponent(fields.bundle.value)}`, {
      method: "POST",
      headers: { "content-type": "application/json" },
      body: JSON.stringify({ params, wait: false }),
    });
    jobPath = `/v1/jobs/${(await answer.json()).id}`;
    cancel.disabled = false;
    await followJob();
  } catch (error) {
    fail(error);
  } finally {
    jobPath = null;
    cancel.disabled = true;
    setDrawing(false);
  }
}

function setDrawing(isDrawing) {
  for (const field of [draw, fields.server, fields.token, fields.bundle]) field.disabled = isDrawing;
}

function readField(name) {
  return [name, fields[name].type === "number" ? fields[name].valueAsNumber : fields[name].value];
}

/** Shows the events of the job, which ends with this page. Throws where it failed, and where the server goes away. */
async function followJob() {
  const leaving = new AbortController(); // since browsers may keep the connections of a page that was left
  const leave = () => leaving.abort(new Error("the page was left, and the job with it"));
  addEventListener("pagehide", leave);
  try {
    const answer = await call(`${jobPath}/events?cancel=true`, { signal: leaving.signal });
    for await (const [name, content] of readEvents(answer)) {
      if (name === "preview") {
        showPictures([content], "preview");
      } else if (name === "progress") {
        const steps = content.steps ? `step ${content.step} of ${content.steps}` : "running"; // a bundle without a loop has none
        show(content.status === "queued" ? "queued" : steps, content.steps ? content.step / content.steps : 0);
      } else if (name === "end") {
        showEnd(content);
        return;
      }
    }
  } finally {
    removeEventListener("pagehide", leave);
  }
  throw new Error("the connection ended before the job did");
}

function showEnd({ status: outcome, error, outputs, warnings: texts }) {
  warnings.textContent = (texts ?? []).join("\n");
  if (outcome === "done") {
    showPictures(Object.values(outputs).filter(({ type }) => type === "image").flatMap(({ data }) => data), "picture");
    show("done", 1);
  } else if (outcome === "cancelled") {
    pictures.replaceChildren();
    show("cancelled", 0);
  } else {
    throw new Error(error.message);
  }
}

/** Yields the name and the content of each server-sent event. EventSource would do so too, but it cannot send a token. */
async function* readEvents(response) {
  const reader = response.body.pipeThrough(new TextDecoderStream()).getReader();
  let text = "";
  try {
    for (;;) {
      const { done, value } = await reader.read();
      if (done) return;
      const blocks = (text + value).split("\n\n");
      text = blocks.pop(); // the beginning of the next one
      for (const block of blocks) {
        const [, name, data] = /^event: (.*)\ndata: (.*)$/.exec(block) ?? []; // not one of the comments between
        if (name) yield [name, JSON.parse(data)];
      }
    }
  } finally {
    await reader.cancel();
  }
}

/** The answer of the server. Throws an error for people. */
async function call(path, options = {}) {
  const headers = { ...options.headers };
  if (fields.token.value) headers.authorization = `Bearer ${fields.token.value}`;
  const address = fields.server.value.replace(/\/+$/, "");
  let answer;
  try {
    answer = await fetch(address + path, { ...options, headers, cache: "no-store", credentials: "omit" });
  } catch {
    throw new Error(`no answer from ${address}: does it run, with --allow-origin ${location.origin}, `
      + "and does connect-src in this page name it?");
  }
  if (!answer.ok) throw new Error(await readError(answer));
  return answer;
}

async function readError(answer) {
  const retry = answer.headers.get("retry-after");
  const again = retry ? `; try again in ${retry} s` : "";
  try {
    const { message, param } = (await answer.json()).error;
    return (param && !message.includes(`'${param}'`) ? `${param}: ` : "") + message + again;
  } catch {
    return `the server answered ${answer.status} ${answer.statusText}${again}`; // a proxy's page, for example
  }
}

function showPictures(data, kind) {
  const images = data.map(({ b64_json: base64 }, i) =>
    Object.assign(new Image(), { src: `data:image/png;base64,${base64}`, alt: `${kind} ${i + 1}`, className: kind }));
  pictures.replaceChildren(...images);
}

function show(text, fraction) {
  status.className = "";
  status.textContent = text;
  bar.value = fraction;
}

function fail(error) {
  show(error.message, 0);
  status.className = "failed";
}
