// Parameters, the current run with its preview, and its outputs.

import { html, useMemo } from "./vendor/htm-preact.js";
import { Field } from "./field.js";
import { fileAddress, formatSeconds, sharpen, shortPath } from "./format.js";
import { GridForm, GridTable } from "./grid.js";
import { Problems } from "./node.js";

const STATUS = { queued: "waiting", running: "running", done: "done", failed: "failed", cancelled: "cancelled", stopped: "stopped" };

export function RunPanel({ view, texts, axes, onText, onAxes, job, jobs, problems, resumable, name, onRun, onGrid, onUse, onResume, onStop, onCancel, onEdit }) {
  const inLoop = job?.status === "running" && job.stoppable.some((path) => job.nodes[path]?.done < job.nodes[path]?.total);
  const waiting = jobs.filter((other) => other.status === "queued").length;
  const others = problems.filter((problem) => !view.params.some((param) => problem.path === `params.${param.name}`));
  // The forms stay as they are while the progress of a run comes in.
  const fields = useMemo(() => html`
    ${view.params.map((param) => html`<${Parameter} key=${param.name} ...${{ param, view, onText, onEdit }} text=${texts[param.name]}
      problems=${problems.filter((problem) => problem.path === `params.${param.name}`)} />`)}
    ${!view.params.length && view.drawn && html`<p class="hint">This workflow has no parameters.</p>`}`, [name, view, texts, problems]);
  const grid = useMemo(() => view.params.length > 0 && html`<${GridForm} key=${name} ...${{ view, axes, onAxes, onGrid }} />`, [name, view, texts, axes]);
  return html`
    <form class="parameters" onSubmit=${(event) => { event.preventDefault(); onRun(); }}>
      ${fields}
      <div class="actions">
        <button class="primary" type="submit" disabled=${!view.drawn} title="Ctrl+Enter">Run</button>
        ${job && ["queued", "running"].includes(job.status) && html`<button type="button" onClick=${() => onCancel(job.number)}>Cancel</button>`}
        ${inLoop && html`<button type="button" disabled=${job.stopping} title="End the run here; then change what you like, and go on"
          onClick=${() => onStop(job.number)}>${job.stopping ? "Stopping …" : "Stop after this step"}</button>`}
        ${resumable && job?.status !== "running" && html`<button type="button" disabled=${!view.drawn} title=${`Go on from ${resumable.folder} with these values`}
          onClick=${() => onResume(resumable.folder)}>Go on${resumable.done ? ` from step ${resumable.done}` : ""}</button>`}
        ${waiting > 0 && html`<span class="faint">${waiting} waiting</span>`}
      </div>
      <${Problems} problems=${others} />
    </form>
    ${grid}
    ${view.notes.map((note) => html`<p class="note-box"><b>${note.code}</b> ${note.message}</p>`)}
    ${job && html`<${Job} job=${job} />`}
    ${job?.cells?.[1] > 0 && html`<${GridTable} folder=${job.folder} version=${job.cells.join("/")} name=${name} onUse=${onUse} />`}`;
}

function Parameter({ param, view, text, onText, onEdit, problems }) {
  const changed = text !== undefined && text !== param.default;
  const id = `param-${param.name}`;
  return html`
    <div class="parameter">
      <label for=${id}>${param.name} <span class="type">${param.type}</span></label>
      ${param.field
        ? html`<${Field} id=${id} field=${param.field} value=${text ?? param.default} placeholder=${param.required ? "required" : ""} required=${param.required}
            onInput=${(value) => onText(param.name, value)} />`
        : html`<span class="faint">cannot be set here</span>`}
      ${changed && html`<span class="changed">
        <button type="button" class="quiet" title="Back to ${param.default}" onClick=${() => onText(param.name, undefined)}>reset</button>
        ${!view.readonly && html`<button type="button" class="quiet" title="Write it into the file as the default"
          onClick=${() => onEdit({ path: `params.${param.name}.default`, value: text, kind: param.field.kind })}>save as default</button>`}
      </span>`}
      ${param.help && html`<p class="help">${param.help}</p>`}
      <${Problems} problems=${problems} />
    </div>`;
}

function Job({ job }) {
  const loops = Object.entries(job.nodes).filter(([, node]) => node.total);
  const pictures = Object.entries(job.outputs).flatMap(([output, files]) => files.filter((file) => file.endsWith(".png")).map((file) => [output, file]));
  const files = Object.values(job.outputs).flat().filter((file) => !file.endsWith(".png") && !(job.shown || []).includes(file));
  const current = Object.entries(job.nodes).find(([, node]) => node.state === "running");
  return html`
    <section class="job" aria-label="Run ${job.number}" aria-live="polite">
      <h2>${job.cells ? "Grid" : "Run"} ${job.number} <span class=${`status ${job.status}`}>${STATUS[job.status]}</span>${" "}
        ${job.status !== "queued" && html`<span class="faint">${formatSeconds(job.seconds)}</span>`}</h2>
      ${job.cells?.[1] > 0 && html`<label class="loop-progress">${job.cells[0]} of ${job.cells[1]} cells<progress value=${job.cells[0]} max=${job.cells[1]}></progress></label>`}
      ${job.status === "running" && !job.cells && html`<p class="faint">${current ? shortPath(current[0]) : "starting"}</p>`}
      ${["running", "failed", "cancelled", "stopped"].includes(job.status) && loops.map(([path, node]) => html`
        <label class="loop-progress">${shortPath(path)} <span class="faint">${node.done} of ${node.total}
          ${Object.entries(node.values || {}).map(([name, value]) => ` · ${name} ${value}`)}</span>
          <progress value=${node.done} max=${node.total}></progress></label>`)}
      ${job.error && html`<p class="problem" role="alert">${job.error}</p>`}
      ${["running", "stopped"].includes(job.status) && job.frame > 0 && !pictures.length && html`
        <figure><img onLoad=${sharpen} src=${`api/runs/${job.number}/frame?${job.frame}`} alt="Preview of the current run" /><figcaption>preview</figcaption></figure>`}
      <div class=${pictures.length > 1 ? "pictures several" : "pictures"}>${pictures.map(([output, file]) => html`
        <figure><a href=${fileAddress(job.folder, file)} target="_blank" rel="noopener"><img onLoad=${sharpen} src=${fileAddress(job.folder, file)} alt=${`Output ${output}`} /></a>
        <figcaption>${file}</figcaption></figure>`)}</div>
      ${job.status !== "running" && (job.shown || []).map((file) => html`
        <figure><iframe sandbox="" src=${fileAddress(job.folder, file, "shown")} title=${`Output ${file}`}></iframe><figcaption>${file}</figcaption></figure>`)}
      ${files.length > 0 && html`<p class="faint">${files.join(", ")}</p>`}
      ${job.folder && job.status !== "running" && !job.cells && html`<p class="faint">runs/${job.folder}</p>`}
    </section>`;
}
