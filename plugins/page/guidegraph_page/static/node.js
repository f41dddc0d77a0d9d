// The selected node: its documentation, ports, settings and outputs, with fields for literal values.

import { html, useState } from "./vendor/htm-preact.js";
import { get, reportTrouble } from "./api.js";
import { Choice } from "./choice.js";
import { Field } from "./field.js";
import { formatSeconds, formatValue, Prose, shortPath } from "./format.js";
import { findTarget, splitLinks } from "./links.js";
import { Values } from "./values.js";

const LINK = { kind: "text" };

// Shows the problems for which a change was refused, and passes them on to its field.
export async function showProblems(change, setProblems) {
  const problems = await change;
  setProblems(problems);
  return problems;
}

export function NodePanel({ name, path, view, run, state, onSelect, onEdit, onChange, onWire, onOffer }) {
  const node = view.nodes[path];
  if (!path || !node) {
    return html`<p class="hint">Select a node in the graph, or a line of the text.</p>`;
  }
  const type = view.types[node.use];
  return html`
    <div class="node-panel" key=${path}>
      <h2>${shortPath(path)}</h2>
      <p class="sub">
        <code>${node.kind === "loop" ? "loop" : node.kind === "choice" ? "choice" : node.use || "cannot be read"}</code>
        ${" "}${node.file ? `${node.file}:${node.line}` : `line ${node.line}`}
        ${state?.seconds !== undefined && html` · ${formatSeconds(state.seconds)}${state.calls ? ` in ${state.calls} calls` : ""}`}
        ${state?.origin && state.origin !== "computed" && html` · from the cache`}
      </p>
      <${Problems} problems=${view.problems.filter((problem) => problem.path === path || problem.path.startsWith(`${path}.`))} />
      ${node.kind !== "inlined" && !view.readonly && html`<${Change} key=${path} path=${path} onChange=${onChange} />`}
      ${node.kind === "inlined" && html`<p class="hint">This node belongs to a workflow that this one uses; its values are set in that file.</p>`}
      ${node.kind === "loop" && html`<p>For each <code>${node.item}</code> of <${Link} text=${node.over} path=${path} view=${view} onSelect=${onSelect} />.
        ${node.trains.length > 0 && html` Trains <code>${node.trains.join(", ")}</code>.`}</p>`}
      ${node.kind === "choice" && html`<p>Chosen by <${Link} text=${node.when} path=${path} view=${view} onSelect=${onSelect} />.</p>`}
      ${Object.entries(node.groups || {}).map(([group, links]) => html`
        <h3>${group}</h3>
        <table><tbody>${Object.entries(links).map(([name, link]) => html`
          <tr><th scope="row">${name}</th><td><${Link} text=${link} path=${path} view=${view} onSelect=${onSelect} /></td></tr>`)}</tbody></table>`)}
      ${node.kind === "loop" && html`<${LoopValues} ...${{ run, path }} />`}
      ${type && node.kind === "node" && html`<${Use} ...${{ path, node, type, view, onEdit }} />`}
      ${type && html`<${Arguments} title="Inputs" ports=${type.ports} ...${{ workflow: name, path, node, view, onSelect, onEdit }} />
        <${Arguments} title="Settings" ports=${type.settings} ...${{ workflow: name, path, node, view, onSelect, onEdit }} />
        <h3>Outputs</h3>
        <dl class="arguments">${type.outputs.map((output) => html`<${Output} key=${output.name} ...${{ name, path, node, type, output, view, run, onWire, onOffer }} />`)}</dl>
        <h3>About <code>${type.id}</code></h3>
        <div class="doc"><${Prose} text=${type.doc} /></div>`}
    </div>`;
}

// What a loop returned in the last run.
const LoopValues = ({ run, path }) => run > 0 && html`<h3>Values</h3><${Values} run=${run} path=${path} output="" />`;

// Rename or remove the node.
function Change({ path, onChange }) {
  const [problems, setProblems] = useState([]);
  const change = (newName) => showProblems(onChange(path, newName), setProblems);
  return html`
    <dl class="arguments"><dt><label for="node-name">name</label></dt><dd>
      <span class="with-button"><${Field} id="node-name" field=${LINK} value=${path.slice(path.lastIndexOf(".") + 1)} onCommit=${change} />
        <button class="quiet" title="Remove this node from the workflow" onClick=${() => change(null)}>remove</button></span>
      <${Problems} problems=${problems} /></dd></dl>`;
}

// The node's id, to be changed to another that has the same outputs.
function Use({ path, node, type, view, onEdit }) {
  const [problems, setProblems] = useState([]);
  if (view.readonly || type.alternatives.length < 2) return null;
  return html`
    <dl class="arguments"><dt><label for="use">use</label></dt><dd>
      <${Field} id="use" field=${{ kind: "choice", options: type.alternatives }} value=${node.use}
        onCommit=${(value) => showProblems(onEdit({ path: `${path}.use`, value, kind: "text" }), setProblems)} />
      <${Problems} problems=${problems} /></dd></dl>`;
}

// An output, with the places that it can be wired to.
function Output({ name, path, node, type, output, view, run, onWire, onOffer }) {
  const [targets, setTargets] = useState([]);
  const [target, setTarget] = useState("");
  const [problems, setProblems] = useState([]);
  const local = path.slice(path.lastIndexOf(".") + 1);
  const link = type.outputs.length === 1 ? local : `${local}.${output.name}`;
  const block = path.slice(0, path.lastIndexOf("."));
  const isWirable = node.kind === "node" && !view.readonly && view.drawn;
  const find = () => get("api/targets", { name, link, block }).then((answer) => setTargets(answer.targets), (error) => {
    setTargets([]);
    reportTrouble(error);
  });
  async function choose(chosen) {
    if (chosen) setProblems(await onWire({ path: chosen, link, old: "" }));
    setTarget("");
  }
  return html`
    <dt>${output.name} <span class="type">${output.type}</span></dt>
    <dd>${isWirable && html`<span class="with-button"><${Choice} aria-label=${`Wire ${output.name} to`} value=${target} onFocus=${find} onChange=${setTarget} onChoose=${choose}>
        <option value="">wire to …</option>${targets.map(({ path: place }) => html`<option value=${place}>${shortPath(place).replace(".in.", ".")}</option>`)}<//>
      <button class="quiet" title="Add a node that takes this output" onClick=${() => onOffer({ block, link })}>add</button></span>`}
      <${Values} run=${run} path=${path} output=${output.name} />
      <${Problems} problems=${problems} /></dd>`;
}

export function Problems({ problems }) {
  return problems.map((problem) => html`<p class="problem" role="alert"><b>${problem.code}</b> ${problem.message}</p>`);
}

function Arguments({ title, ports, ...rest }) {
  if (!ports.length) return null;
  return html`
    <h3>${title}</h3>
    <dl class="arguments">${ports.map((port) => html`<${Argument} key=${port.name} port=${port} ...${rest} />`)}</dl>`;
}

function Argument({ port, workflow, path, node, view, onSelect, onEdit }) {
  const [problems, setProblems] = useState([]);
  const argument = node.arguments?.[port.name];
  const id = `${path}-${port.name}`;
  const fallback = port.required ? "required" : formatValue(port.default);
  const editable = node.kind === "node" && !view.readonly;
  const isLink = argument?.link !== undefined || (argument?.literal === undefined && !port.field);
  function edit(value) {
    const target = `${path}.${isLink ? "in" : "with"}.${port.name}`;
    return showProblems(onEdit({ path: target, value: value || !isLink ? value : null, kind: isLink ? "link" : port.field.kind }), setProblems);
  }
  const removable = argument?.literal !== undefined && !port.required && editable;
  return html`
    <dt><label for=${id}>${port.name}</label> <span class="type">${port.type}${port.limits ? `, ${port.limits}` : ""}</span></dt>
    <dd>
      ${node.kind !== "node"
        ? null
        : isLink
          ? html`<span class="with-button">
              <${Field} id=${id} field=${LINK} value=${argument?.link ?? ""} placeholder=${port.required ? "required: a link" : `${fallback}, or a link`}
                disabled=${!editable} onCommit=${edit} onSuggest=${() => get("api/links", { name: workflow, path: `${path}.in.${port.name}` }).then((target) => target.options)} />
              ${editable && argument?.link !== undefined && html`<button class="quiet" title="Show this wire" aria-label=${`Show the wire of ${port.name}`} onClick=${() => onSelect(`${path}.in.${port.name}`)}>⌁</button>`}
              ${argument?.link !== undefined && splitLinks(argument.link).map((link) => html`<${Go} text=${link} path=${path} view=${view} onSelect=${onSelect} />`)}</span>`
          : html`<span class="with-button">
              <${Field} id=${id} field=${port.field} value=${argument?.literal ?? ""} placeholder=${fallback} required=${port.required} disabled=${!editable} onCommit=${edit} />
              ${removable && html`<button class="quiet" title="Back to the default: ${fallback}" aria-label="Back to the default" onClick=${() => edit(null)}>×</button>`}</span>`}
      ${port.doc && html`<p class="help">${port.doc}</p>`}
      <${Problems} problems=${problems} />
    </dd>`;
}

function Link({ text, path, view, onSelect }) {
  const target = findTarget(text, path, view);
  return target ? html`<button class="link" onClick=${() => onSelect(target)}>${text}</button>` : html`<code>${text}</code>`;
}

function Go({ text, path, view, onSelect }) {
  const target = findTarget(text, path, view);
  return target && html`<button class="quiet" title="Go to ${text}" aria-label="Go to ${text}" onClick=${() => onSelect(target)}>→</button>`;
}
