// The palette: search for a node by words or by what fits, see what it would be wired to, and add it.

import { html, useEffect, useMemo, useRef, useState } from "./vendor/htm-preact.js";
import { get } from "./api.js";
import { Field } from "./field.js";
import { formatValue, shortPath, withCode } from "./format.js";
import { Problems } from "./node.js";
import { startPlacing } from "./placing.js";

// place: {block, link, path}: the block to add to, a link that the node should take, the place that should take its output.
export function Palette({ name, view, place, search, draft, onPlace, onSearch, onDraft, onAdd }) {
  if (view.readonly) return html`<p class="hint">Nothing can be added: ${view.readonly}.</p>`;
  if (!view.drawn) return html`<p class="hint">Correct the errors of the workflow first.</p>`;
  if (draft) return html`<${Draft} key=${draft.use} draft=${draft} view=${view} onDraft=${onDraft} onAdd=${onAdd} />`;
  return html`<${Search} ...${{ name, view, place, text: search, onPlace, onText: onSearch, onDraft }} />`;
}

function Search({ name, view, place: chosen, text, onPlace, onText, onDraft }) {
  const blocks = ["nodes", ...Object.entries(view.nodes).filter(([, node]) => node.kind === "loop").map(([path]) => `${path}.body`)];
  const block = blocks.includes(chosen.block) ? chosen.block : "nodes"; // the chosen one may be gone
  const place = useMemo(() => ({ ...chosen, block }), [chosen, block]);
  const [answer, setAnswer] = useState({ nodes: [], more: 0 });
  const [failure, setFailure] = useState("");
  const field = useRef(null);
  useEffect(() => field.current?.focus({ preventScroll: true }), [chosen]);
  useEffect(() => {
    let isCurrent = true;
    get("api/palette", { name, text, ...place }).then((next) => isCurrent && (setAnswer(next), setFailure("")), (error) => isCurrent && setFailure(error.message));
    return () => { isCurrent = false; };
  }, [text, place, view]);
  const isShown = useRef(true); // another workflow may be open when the answer comes
  useEffect(() => () => { isShown.current = false; }, []);
  const choose = (use) => get("api/draft", { name, use, ...place }).then((drafted) => isShown.current && onDraft(drafted), (error) => setFailure(error.message));
  return html`
    <div class="palette">
      <label class="visually-hidden" for="palette-text">Search nodes</label>
      <input id="palette-text" type="text" ref=${field} value=${text} placeholder="Search nodes by name or by what they do" onInput=${(event) => onText(event.target.value)} />
      ${place.path || place.link
        ? html`<p class="filter"><span>${place.path ? html`that fit between <code>${place.link}</code> and <code>${shortPath(place.path)}</code>` : html`that take <code>${place.link}</code>`}</span>
            <button class="quiet" onClick=${() => onPlace({ block: place.block })}>show all</button></p>`
        : blocks.length > 1 && html`<p class="filter"><label for="palette-block">add to</label>
            <select id="palette-block" value=${place.block} onChange=${(event) => onPlace({ block: event.target.value })}>
              ${blocks.map((block) => html`<option value=${block}>${block === "nodes" ? "the workflow" : `the body of ${shortPath(block.slice(0, -5))}`}</option>`)}</select></p>`}
      ${failure && html`<p class="problem" role="alert">${failure}</p>`}
      <ul class="nodes" aria-label="Nodes">${answer.nodes.map((node) => html`
        <li key=${node.id}><button onClick=${() => choose(node.id)} onPointerDown=${(event) => startPlacing(event, node.id, name, (next) => onPlace(next, node.id))}>
          <b>${node.id}</b> <span>${withCode(node.summary)}</span></button></li>`)}</ul>
      <p class="hint">${answer.more ? `and ${answer.more} more: type a word` : answer.nodes.length ? "Drag one onto a wire, or press it." : "No node fits."}</p>
    </div>`;
}

function Draft({ draft, view, onDraft, onAdd }) {
  const { label = draft.name, links = Object.fromEntries(draft.ports.map((port) => [port.name, port.link])), values = {} } = draft.typed || {};
  const type = (fields) => onDraft({ ...draft, typed: { label, links, values, ...fields } }); // it is kept while another panel is shown
  const [problems, setProblems] = useState([]);
  const first = draft.ports.filter((port) => port.required || port.link);
  const others = draft.ports.filter((port) => !first.includes(port));
  async function submit(event) {
    event.preventDefault();
    const inputs = Object.fromEntries(Object.entries(links).filter(([, link]) => link));
    const settings = Object.fromEntries(Object.entries(values).filter(([key, value]) => value !== undefined && value !== "" && !inputs[key]));
    setProblems(await onAdd({ label, use: draft.use, block: draft.block, path: draft.path, old: draft.path ? draft.link : "", output: draft.output, inputs, settings }));
  }
  const row = (port) => html`<${DraftPort} key=${port.name} port=${port} link=${links[port.name]} value=${values[port.name]}
    onLink=${(link) => type({ links: { ...links, [port.name]: link } })} onValue=${(value) => type({ values: { ...values, [port.name]: value } })} />`;
  return html`
    <form class="node-panel draft" onSubmit=${submit}>
      <h2>${draft.use}</h2>
      <p class="sub">${withCode(draft.summary)}</p>
      <p class="filter">${draft.path ? html`between <code>${draft.link}</code> and <code>${shortPath(draft.path)}</code>` : html`in ${draft.block === "nodes" ? "the workflow" : shortPath(draft.block.slice(0, -5))}`}</p>
      <dl class="arguments"><dt><label for="draft-name">name</label></dt><dd><${Field} id="draft-name" field=${{ kind: "text" }} value=${label} onInput=${(text) => type({ label: text })} /></dd>
        ${first.map(row)}</dl>
      ${others.length > 0 && html`<details><summary>${others.length} more with defaults</summary><dl class="arguments">${others.map(row)}</dl></details>`}
      <${Problems} problems=${problems} />
      <div class="actions"><button class="primary" type="submit">Add</button><button type="button" onClick=${() => onDraft(null)}>Back</button></div>
    </form>`;
}

function DraftPort({ port, link, value, onLink, onValue }) {
  const id = `draft-${port.name}`;
  const options = ["", ...port.options];
  const isFlag = port.field?.kind === "flag";
  const fallback = port.required ? "required" : `default: ${formatValue(port.default)}`;
  return html`
    <dt><label for=${id}>${port.name}</label> <span class="type">${port.type}</span></dt>
    <dd>
      ${port.field && !link && html`<${Field} id=${id} field=${port.field} value=${value ?? (isFlag && !port.required ? String(port.default) : "")} placeholder=${fallback} required=${port.required} onInput=${onValue} />`}
      ${(port.options.length > 0 || !port.field) && html`<select id=${port.field && !link ? `${id}-link` : id} aria-label=${`Link for ${port.name}`} value=${link} onChange=${(event) => onLink(event.target.value)}>
        ${options.map((option) => html`<option value=${option}>${option || (port.field ? "or a link" : fallback)}</option>`)}</select>`}
      ${port.doc && html`<p class="help">${port.doc}</p>`}
    </dd>`;
}
