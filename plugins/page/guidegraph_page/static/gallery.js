// The runs in the folder: their pictures and parameters, to repeat one or to compare two.

import { html, useEffect, useState } from "./vendor/htm-preact.js";
import { get, reportTrouble } from "./api.js";
import { fileAddress, formatSeconds, formatValue, sharpen } from "./format.js";
import { GridTable } from "./grid.js";

export function Gallery({ finished, onUse, onResume, onPicture, name }) {
  const [runs, setRuns] = useState(null);
  const [rest, setRest] = useState({ total: 0, next: null }); // the number of all runs, and where the next page begins
  const [chosen, setChosen] = useState([]);
  const [failure, setFailure] = useState("");
  useEffect(() => {
    let isCurrent = true;
    get("api/runs").then((page) => {
      if (!isCurrent) return;
      setRuns((earlier) => joinPages(page, earlier || []));
      setRest((earlier) => ({ total: page.total, next: earlier.next !== null && earlier.next < page.next ? earlier.next : page.next }));
      setFailure("");
    }, (error) => isCurrent && setFailure(error.message));
    return () => { isCurrent = false; };
  }, [finished]);
  const [grids, setGrids] = useState([]);
  const [grid, setGrid] = useState("");
  useEffect(() => {
    get("api/grids").then(setGrids, reportTrouble);
  }, [finished]);
  const opener = html`<label class="opener">Open the workflow of a picture: drop it on the page, or choose it
    <input type="file" accept="image/png" onChange=${(event) => event.target.files.length && onPicture(event.target.files[0])} /></label>`;
  if (failure) return html`${opener}<p class="problem" role="alert">${failure}</p>`;
  if (!runs) return html`${opener}<p class="hint">Reading the runs …</p>`;
  if (!runs.length && !grids.length) return html`${opener}<p class="hint">There are no runs in this folder yet.</p>`;
  const showMore = () => get("api/runs", { before: rest.next }).then((page) => {
    setRuns((earlier) => [...earlier, ...page.runs]);
    setRest({ total: page.total, next: page.next });
  }, (error) => setFailure(error.message));
  const flip = (folder) => setChosen(chosen.includes(folder) ? chosen.filter((other) => other !== folder) : [...chosen.slice(-1), folder]);
  const pair = chosen.map((folder) => runs.find((run) => run.folder === folder)).filter(Boolean).sort((a, b) => (a.folder < b.folder ? -1 : 1));
  return html`
    ${opener}
    ${grids.length > 0 && html`<select aria-label="Grid" value=${grid} onChange=${(event) => setGrid(event.target.value)}>
      <option value="">${grids.length === 1 ? "1 grid" : `${grids.length} grids`}</option>${grids.map(({ folder }) => html`<option value=${folder}>${folder}</option>`)}</select>`}
    ${grid && html`<${GridTable} folder=${grid} version=${finished} name=${name} onUse=${onUse} />`}
    ${pair.length === 2 ? html`<${Comparison} pair=${pair} />` : html`<p class="hint">Choose two runs to compare them.</p>`}
    <ul class="runs">${runs.map((run) => html`
      <li key=${run.folder}>
        <label class=${chosen.includes(run.folder) ? "run chosen" : "run"}>
          <input type="checkbox" checked=${chosen.includes(run.folder)} onChange=${() => flip(run.folder)} />
          ${run.pictures.length > 0 && html`<img loading="lazy" src=${fileAddress(run.folder, run.pictures[0])} alt="" />`}
          <span><b>${run.name}</b> <span class=${`status ${run.status}`}>${run.status}</span>
            <span class="faint">${run.started.replace("T", " ").slice(0, 16)}${run.seconds !== null ? ` · ${formatSeconds(run.seconds)}` : ""}</span>
            <span class="values">${Object.entries(run.params).map(([key, value]) => html`<span><i>${key}</i> ${formatValue(value)}</span>`)}</span>
          </span>
        </label>
        ${run.shown.length > 0 && html`<${Shown} run=${run} />`}
        ${run.file === name && html`<button class="quiet use" onClick=${() => onUse(run.params)}>use these parameters</button>`}
        ${run.file === name && run.stopped && html`<button class="quiet use" onClick=${() => onResume(run)}>go on from here</button>`}
      </li>`)}</ul>
    ${rest.next && html`<p class="hint">${runs.length} of ${rest.total} runs, the newest first.
      <button class="quiet more" onClick=${showMore}>Show more</button></p>`}`;
}

// The outputs that only a plugin can show; each is fetched when it is opened.
function Shown({ run }) {
  const [open, setOpen] = useState([]);
  const toggle = (file, isOpen) => setOpen((earlier) => (isOpen ? [...earlier, file] : earlier.filter((other) => other !== file)));
  return run.shown.map((file) => html`<details key=${file} onToggle=${(event) => toggle(file, event.currentTarget.open)}>
    <summary>${file}</summary>
    ${open.includes(file) && html`<iframe sandbox="" src=${fileAddress(run.folder, file, "shown")} title=${`${file} of ${run.folder}`}></iframe>`}</details>`);
}

// The newest page, and the older runs that are shown already.
function joinPages(page, earlier) {
  return [...page.runs, ...(page.next ? earlier.filter((run) => run.folder < page.next) : [])];
}

function Comparison({ pair }) {
  const [lines, setLines] = useState([]);
  const [first, second] = pair.map((run) => run.folder);
  useEffect(() => {
    let isCurrent = true;
    setLines([]);
    get("api/comparison", { first, second }).then((answer) => isCurrent && setLines(answer.lines), reportTrouble);
    return () => { isCurrent = false; };
  }, [first, second]);
  const keys = [...new Set(pair.flatMap((run) => Object.keys(run.params)))];
  const different = keys.filter((key) => formatValue(pair[0].params[key] ?? null) !== formatValue(pair[1].params[key] ?? null));
  return html`
    <section class="comparison" aria-label="Comparison">
      <div class="pictures several">${pair.map((run) => html`<figure>
        ${run.pictures.length > 0 && html`<img onLoad=${sharpen} src=${fileAddress(run.folder, run.pictures[0])} alt=${`First picture of ${run.folder}`} />`}
        ${run.pictures.length === 0 && run.shown.length > 0 && html`<iframe sandbox="" src=${fileAddress(run.folder, run.shown[0], "shown")} title=${`First output of ${run.folder}`}></iframe>`}
        <figcaption>${run.folder}</figcaption></figure>`)}</div>
      ${different.length ? html`<table><tbody>${different.map((key) => html`
        <tr><th scope="row">${key}</th>${pair.map((run) => html`<td>${formatValue(run.params[key] ?? "—")}</td>`)}</tr>`)}</tbody></table>`
        : html`<p class="faint">The parameters are the same.</p>`}
      ${lines.length > 0 && html`<h3>Workflow</h3>
        <div class="difference">${lines.map((line) => html`<code class=${line.startsWith("+") ? "added" : "removed"}>${line}</code>`)}</div>`}
    </section>`;
}
