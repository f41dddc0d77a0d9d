// The YAML of the workflow beside its drawing: click a line to select its node; problems stand below their lines.

import { html, useEffect, useMemo, useRef } from "./vendor/htm-preact.js";

const MAX_COLOURED = 1500; // lines
const MAX_LENGTH = 2000; // characters of a coloured line: a word without a colon costs their square
const TOKEN = /("(?:[^"\\]|\\.)*"|'(?:[^']|'')*')|((?<=^|\s)#.*$)|([\w.+-]+)(?=\s*:(?:\s|$))|((?<![\w.])-?\d+(?:\.\d*)?(?:[eE][-+]?\d+)?(?![\w.]))/g;
const LINE_BREAK = /\r\n|[\n\r\x85\u2028\u2029]/; // those of YAML
const CLASSES = ["", "string", "comment", "key", "digits"];

export function Text({ text, problems, nodes, selected, line, onSelect }) {
  const lines = useMemo(() => text.replace(/\n$/, "").split(LINE_BREAK), [text]);
  const body = useRef(null);
  const [first, last] = selected && nodes[selected]?.last ? [nodes[selected].line, nodes[selected].last] : [0, -1];
  const target = line || first;

  useEffect(() => {
    const row = target && body.current?.querySelector(`[data-line="${target}"]`);
    if (!row) return;
    const [inner, outer] = [row.getBoundingClientRect(), body.current.getBoundingClientRect()];
    if (inner.top < outer.top || inner.bottom > outer.bottom) row.scrollIntoView({ block: "center" });
  }, [target, selected, text]);

  const below = new Map();
  for (const problem of problems) {
    if (problem.here) below.set(problem.line, [...(below.get(problem.line) || []), problem]);
  }
  return html`
    <section class="text-pane" ref=${body} tabindex="0" aria-label="Text of the workflow">
      <div class="lines">${lines.map((content, i) => {
        const number = i + 1;
        const chosen = number >= first && number <= last;
        return html`
          <div key=${number} data-line=${number} class=${chosen ? "line chosen" : "line"} onClick=${() => onSelect(findNodeAt(nodes, number))}>
            <span class="line-number" aria-hidden="true">${number}</span><code>${lines.length > MAX_COLOURED || content.length > MAX_LENGTH ? content : colour(content)}</code>
          </div>
          ${(below.get(number) || []).map((problem) => html`<p class="problem below"><b>${problem.code}</b> ${problem.message}</p>`)}`;
      })}</div>
    </section>`;
}

// The innermost node whose entry has this line.
function findNodeAt(nodes, line) {
  let best = "";
  for (const [path, node] of Object.entries(nodes)) {
    if (node.last && node.line <= line && line <= node.last && (!best || path.length > best.length)) best = path;
  }
  return best;
}

function colour(content) {
  const pieces = [];
  let end = 0;
  for (const match of content.matchAll(TOKEN)) {
    const kind = CLASSES[match.slice(1).findIndex((group) => group !== undefined) + 1];
    pieces.push(content.slice(end, match.index), html`<span class=${kind}>${match[0]}</span>`);
    end = match.index + match[0].length;
  }
  pieces.push(content.slice(end));
  return pieces;
}
