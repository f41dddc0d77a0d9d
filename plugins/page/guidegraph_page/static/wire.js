// The selected wire: its ends, another source for it, a node to put into it, or its removal.

import { html, useEffect, useState } from "./vendor/htm-preact.js";
import { get, reportTrouble } from "./api.js";
import { Field } from "./field.js";
import { shortPath } from "./format.js";
import { findTarget } from "./links.js";
import { Problems, showProblems } from "./node.js";
import { Values } from "./values.js";

export function WirePanel({ path, name, view, run, onWire, onRemove, onInsert, onSelect }) {
  const [target, setTarget] = useState(null);
  const [problems, setProblems] = useState([]);
  useEffect(() => {
    let isCurrent = true;
    setProblems([]);
    get("api/links", { name, path }).then((next) => isCurrent && setTarget(next), (error) => {
      if (isCurrent) setTarget(null);
      reportTrouble(error);
    });
    return () => { isCurrent = false; };
  }, [path, view]);
  if (target?.path !== path) return html`<p class="hint">Select a node or a wire in the graph, or a line of the text.</p>`;
  const change = (link, old) => showProblems(onWire({ path, link, old }), setProblems);
  return html`
    <div class="node-panel wire-panel" key=${path}>
      <h2>${target.links.join(", ") || "nothing"} → ${shortPath(path).replace(/\.in\.([^.]+)$/, ".$1")}</h2>
      <p class="sub">wire${target.type && html` · <span class="type">${target.type}</span>`}
        ${target.node && html` · <button class="link" onClick=${() => onSelect(target.node)}>${shortPath(target.node)}</button>`}</p>
      ${target.links.map((link, i) => html`
        <dl class="arguments" key=${link}><dt><label for=${`wire-${i}`}>source</label></dt><dd>
          <${Field} id=${`wire-${i}`} field=${{ kind: "choice", options: target.options }} value=${link} disabled=${!!view.readonly}
            onCommit=${(next) => change(next, link)} />
          ${!view.readonly && html`<span class="actions-row">
            <button onClick=${() => onInsert({ path, link, block: target.block })}>Insert a node</button>
            <button onClick=${async () => setProblems(await onRemove(path, link, target.node))}>Remove</button></span>`}
        </dd></dl>`)}
      ${target.links.map((link) => findTarget(link, path, view) && html`<${Values} key=${link} run=${run} path=${findTarget(link, path, view)} output=${link.split(".")[1] || ""} />`)}
      ${!view.readonly && html`<p class="hint">Drag from a port to wire it anew, or drop a node from <b>Add</b> on the wire.</p>`}
      <${Problems} problems=${problems} />
    </div>`;
}
