// Grids of pictures over one or two parameters: the form that runs one, and its table with labels.

import { html, useEffect, useState } from "./vendor/htm-preact.js";
import { get } from "./api.js";
import { fileAddress, formatSeconds, formatValue, sharpen } from "./format.js";
import { Problems } from "./node.js";

const AXES = ["across", "down"];

// axes: the parameter and the values of each axis, as far as they are chosen. onGrid runs a grid with {parameter: values} and promises the problems for which it was refused.
export function GridForm({ view, axes, onAxes, onGrid }) {
  const [isOpen] = useState(AXES.some((axis) => axes[axis])); // at first
  const [problems, setProblems] = useState([]);
  const params = view.params.filter((param) => param.field);
  const change = (axis, fields) => onAxes({ ...axes, [axis]: { ...axes[axis], ...fields } });
  async function run(event) {
    event.preventDefault();
    const chosen = AXES.map((axis) => axes[axis]).filter((axis) => axis?.param);
    setProblems(await onGrid(Object.fromEntries(chosen.map((axis) => [axis.param, axis.values || ""]))));
  }
  return html`
    <details class="grid-form" open=${isOpen}><summary>X/Y grid</summary>
      <form onSubmit=${run}>
        ${AXES.map((axis) => html`
          <div class="axis" key=${axis}>
            <select aria-label=${`Parameter ${axis}`} value=${axes[axis]?.param || ""} onChange=${(event) => change(axis, { param: event.target.value })}>
              <option value="">${axis}</option>
              ${params.map((param) => html`<option value=${param.name} disabled=${AXES.some((other) => other !== axis && axes[other]?.param === param.name)}>${param.name}</option>`)}
            </select>
            <input type="text" aria-label=${`Values ${axis}`} spellcheck=${false} placeholder=${axes[axis]?.param === "seed" ? "0:4 or 3,7" : "1,2,4"}
              value=${axes[axis]?.values || ""} onInput=${(event) => change(axis, { values: event.target.value })} />
          </div>`)}
        <button type="submit" disabled=${!view.drawn || !AXES.some((axis) => axes[axis]?.param)}>Run the grid</button>
      </form>
      <${Problems} problems=${problems} />
    </details>`;
}

// The grid in a folder; it is read again when `version` changes. onUse takes the parameters of a cell.
export function GridTable({ folder, version, name: workflow, onUse }) {
  const [answer, setAnswer] = useState({ folder: "" });
  const [opened, setOpened] = useState("");
  useEffect(() => {
    let isCurrent = true;
    const set = (fields) => isCurrent && setAnswer({ folder, ...fields });
    get("api/grids", { folder }).then((grid) => set({ grid }), (error) => set({ failure: error.message }));
    return () => { isCurrent = false; };
  }, [folder, version]);
  if (answer.folder !== folder) return html`<p class="hint">Reading the grid …</p>`;
  if (answer.failure) return html`<p class="problem" role="alert">The grid in runs/${folder} cannot be read: ${answer.failure}</p>`;
  const { grid } = answer;
  const [across, down = { name: "", values: [""] }] = grid.axes;
  const find = (x, y) => grid.cells.find((cell) => cell.point[0] === x && (cell.point[1] ?? 0) === y);
  const cell = grid.cells.find((other) => other.folder === opened);
  const describePoint = (point) => grid.axes.map((axis, i) => `${axis.name} ${axis.values[point[i]]}`).join(", ");
  return html`
    <section class="grid" aria-label="Grid">
      <div class="grid-scroller" tabindex="0" aria-label="Pictures of the grid"><table>
        <thead>
          <tr><td></td><th scope="colgroup" colspan=${across.values.length}><span>${across.name}</span></th></tr>
          <tr>${down.name ? html`<th>${down.name}</th>` : html`<td></td>`}${across.values.map((value) => html`<th scope="col">${value}</th>`)}</tr>
        </thead>
        <tbody>${down.values.map((value, y) => html`
          <tr>${down.name ? html`<th scope="row">${value}</th>` : html`<td></td>`}${across.values.map((_, x) => html`
            <td><${Cell} cell=${find(x, y)} title=${describePoint([x, y])}
              isOpen=${!!cell && find(x, y) === cell} onOpen=${setOpened} /></td>`)}</tr>`)}
        </tbody></table></div>
      ${cell && html`<${OpenedCell} cell=${cell} title=${describePoint(cell.point)} onUse=${grid.file === workflow ? onUse : null} />`}
      <p class="faint">runs/${folder}</p>
    </section>`;
}

function Cell({ cell, title, isOpen, onOpen }) {
  if (!cell) return html`<span class="faint" aria-label=${`${title}: not there`}>·</span>`;
  return html`
    <button class=${isOpen ? "cell chosen" : "cell"} title=${title} aria-label=${title} aria-pressed=${isOpen} onClick=${() => onOpen(isOpen ? "" : cell.folder)}>
      ${cell.pictures.length > 0 ? html`<img onLoad=${sharpen} src=${fileAddress(cell.folder, cell.pictures[0])} alt="" />` : html`<span class=${`status ${cell.status}`}>${cell.status}</span>`}
    </button>`;
}

// The run of a cell: its pictures, its parameters and where it is.
function OpenedCell({ cell, title, onUse }) {
  return html`
    <section class="job" aria-label="Run of the cell">
      <h3>${title} <span class=${`status ${cell.status}`}>${cell.status}</span>${" "}
        <span class="faint">${cell.seconds === null ? "" : formatSeconds(cell.seconds)}</span></h3>
      ${cell.error && html`<p class="problem">${cell.error}</p>`}
      <div class=${cell.pictures.length > 1 ? "pictures several" : "pictures"}>${cell.pictures.map((file) => html`
        <figure><a href=${fileAddress(cell.folder, file)} target="_blank" rel="noopener"><img onLoad=${sharpen} src=${fileAddress(cell.folder, file)} alt=${file} /></a></figure>`)}</div>
      <table><tbody>${Object.entries(cell.params).map(([key, value]) => html`<tr><th scope="row">${key}</th><td>${formatValue(value)}</td></tr>`)}</tbody></table>
      ${onUse && html`<button onClick=${() => onUse(cell.params)}>use these parameters</button>`}
      <p class="faint">runs/${cell.folder}</p>
    </section>`;
}
