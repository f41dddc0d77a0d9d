// The values of the last run: below the outputs of the selected node, and in a card beside a wire under the pointer.

import { html, useEffect, useRef, useState } from "./vendor/htm-preact.js";
import { get, reportTrouble } from "./api.js";
import { sharpen } from "./format.js";
import { wireAt } from "./wiring.js";

const WAIT = 250; // milliseconds that the pointer rests on a wire

const keyOf = (path) => path.replace(/^nodes\./, "");

// Promises the values of a node's outputs, or of the one that is named; none for a node whose values are not kept.
async function readValues(run, path, output) {
  const { values } = await get(`api/runs/${run}/values`, { key: keyOf(path) });
  return values.filter((value) => !output || value.name === output);
}

export function Values({ run, path, output }) {
  const [values, setValues] = useState([]);
  useEffect(() => {
    let isCurrent = true;
    setValues([]);
    if (run) readValues(run, path, output).then((next) => isCurrent && setValues(next), reportTrouble);
    return () => { isCurrent = false; };
  }, [run, path, output]);
  return values.map((value) => html`<${Value} key=${value.name} ...${{ run, path, value }} />`);
}

function Value({ run, path, value }) {
  const query = new URLSearchParams({ key: keyOf(path), output: value.name });
  return html`
    <div class="value"><span class="type">${value.name === "out" ? "" : value.name}</span>${value.lines.map((line) => html`<code>${line}</code>`)}
      ${value.picture && html`<img onLoad=${sharpen} src=${`api/runs/${run}/thumbnail?${query}`} alt=${`Value of ${value.name}`} />`}</div>`;
}

// A card with the value of the wire at which the pointer rests. find: {path, output} of the source of a link, or null.
export function Hover({ scroller, run, find }) {
  const [card, setCard] = useState(null);
  const latest = useRef(null); // the run and the links when the pointer has rested, not when it came to rest
  latest.current = { run, find };
  useEffect(() => setCard(null), [run, find]);
  useEffect(() => {
    const box = scroller.current;
    let timer = 0;
    let moves = 0;
    const hide = () => {
      clearTimeout(timer);
      moves += 1;
      setCard(null);
    };
    function onMove(event) {
      hide();
      if (!event.buttons) timer = setTimeout(() => show(event.target, event.clientX, event.clientY), WAIT);
    }
    function show(element, x, y) {
      const [move, { run, find }] = [moves, latest.current];
      const end = element.closest(".dot[data-link]") || wireAt(x, y);
      const link = end?.dataset.link;
      const source = run && link && find(link, end.dataset.path || `${end.dataset.block}.x`);
      const isCurrent = () => move === moves && run === latest.current.run;
      if (source) readValues(run, source.path, source.output).then((values) => isCurrent() && values.length && setCard({ ...source, run, link, values, x, y }), reportTrouble);
    }
    box.addEventListener("pointermove", onMove);
    box.addEventListener("pointerleave", hide);
    return () => {
      hide();
      box.removeEventListener("pointermove", onMove);
      box.removeEventListener("pointerleave", hide);
    };
  }, []);
  if (!card) return null;
  const place = { left: `${Math.min(card.x + 14, innerWidth - 260)}px`, top: `${Math.min(card.y + 14, innerHeight - 140)}px` };
  return html`
    <div class="card" role="tooltip" style=${place}>
      <b>${card.link}</b>${card.values.map((value) => html`<${Value} key=${value.name} run=${card.run} path=${card.path} value=${value} />`)}</div>`;
}
