// The drawing of the workflow: zoom, pan, selection, problems, and the progress of a run.

import { html, useEffect, useLayoutEffect, useRef, useState } from "./vendor/htm-preact.js";
import { formatSeconds } from "./format.js";
import { Menu } from "./menu.js";
import { Hover } from "./values.js";
import { startWire, wireAt } from "./wiring.js";

const SMALLEST = 0.1;
const LARGEST = 3;
const FIRST_ZOOM = [0.5, 1];
const DRAG = 4;
const SVG = "http://www.w3.org/2000/svg";

export function Graph({ name, svg, drawn, readonly, selected, onSelect, onWire, onOffer, onFailure, run, find, problems, nodes, isRunning }) {
  const scroller = useRef(null);
  const drawing = useRef(null);
  const groups = useRef(new Map()); // the drawn nodes by path
  const shown = useRef("");
  const [zoom, setZoom] = useState(1);
  const [menu, setMenu] = useState(null);
  const drag = useRef(null);

  useLayoutEffect(() => {
    drawing.current = insertDrawing(scroller.current, svg);
    groups.current = new Map([...(drawing.current?.querySelectorAll("[data-node]") || [])].map((node) => [node.dataset.node, node]));
    if (drawing.current && shown.current !== name) {
      shown.current = name;
      fit(FIRST_ZOOM);
    } else {
      resize(drawing.current, zoom);
    }
  }, [svg]);

  useEffect(() => markSelection(drawing.current, groups.current, selected, problems), [svg, selected, problems]);
  useLayoutEffect(() => markProgress(groups.current, nodes, isRunning), [svg, nodes, isRunning]); // in the frame of the panel's

  useEffect(() => {
    const node = selected && findNode(drawing.current, selected);
    if (node && !isVisible(node, scroller.current)) node.scrollIntoView({ block: "center", inline: "center" });
  }, [selected, svg]);

  function setScale(scale, at) {
    const box = scroller.current;
    const next = Math.min(LARGEST, Math.max(SMALLEST, scale));
    const point = at || { x: box.clientWidth / 2, y: box.clientHeight / 2 };
    const ratio = next / zoom;
    const left = (box.scrollLeft + point.x) * ratio - point.x;
    const top = (box.scrollTop + point.y) * ratio - point.y;
    resize(drawing.current, next);
    box.scrollTo(left, top);
    setZoom(next);
  }

  function fit([low, high] = [SMALLEST, 1]) {
    const box = scroller.current;
    if (!drawing.current) return;
    const { width, height } = drawing.current.viewBox.baseVal;
    const scale = Math.min(high, Math.max(low, Math.min(box.clientWidth / width, box.clientHeight / height)));
    resize(drawing.current, scale);
    box.scrollTo(0, 0);
    setZoom(scale);
  }

  function onWheel(event) {
    if (!event.ctrlKey && !event.metaKey) return;
    event.preventDefault();
    const box = scroller.current.getBoundingClientRect();
    setScale(zoom * Math.exp(-event.deltaY / 300), { x: event.clientX - box.left, y: event.clientY - box.top });
  }

  useEffect(() => {
    const box = scroller.current;
    box.addEventListener("wheel", onWheel, { passive: false });
    return () => box.removeEventListener("wheel", onWheel);
  });

  function onKeyDown(event) {
    if (event.ctrlKey || event.metaKey || event.altKey) return; // the browser's own, such as its zoom
    const node = event.target.closest("[data-node]");
    if (node && (event.key === "Enter" || event.key === " ")) onSelect(node.dataset.node);
    else if (event.key === "+" || event.key === "=") setScale(zoom * 1.25);
    else if (event.key === "-") setScale(zoom / 1.25);
    else if (event.key === "0") fit();
    else if (event.key === "Escape") onSelect("");
    else return;
    event.preventDefault();
  }

  const wireActions = {
    onDrop: ({ path, link }) => onWire({ path, link, old: "" }),
    onChoose: (offers, point) => setMenu({ at: point, title: "Wire to", items: offers.map((offer) => ({
      label: offers[0].path === offers.at(-1).path ? offer.link : offer.name, hint: offer.type, act: () => onWire({ path: offer.path, link: offer.link, old: "" }),
    })) }),
    onEmpty: onOffer,
    onFailure,
  };

  function onPointerDown(event) {
    drag.current = null;
    if (!readonly && drawn && startWire(event, drawing.current, name, wireActions)) return;
    if (event.pointerType !== "mouse" || event.button !== 0) return;
    const box = scroller.current;
    drag.current = { x: event.clientX, y: event.clientY, left: box.scrollLeft, top: box.scrollTop, moved: false };
  }

  function onPointerMove(event) {
    const start = drag.current;
    if (!start || !(event.buttons & 1)) return;
    const [dx, dy] = [event.clientX - start.x, event.clientY - start.y];
    start.moved ||= Math.hypot(dx, dy) > DRAG;
    if (start.moved) scroller.current.scrollTo(start.left - dx, start.top - dy);
  }

  function onClick(event) {
    const moved = drag.current?.moved;
    drag.current = null;
    if (moved) return;
    const wire = event.target.closest("[data-node] > g") ? null : wireAt(event.clientX, event.clientY);
    onSelect(wire?.dataset.path || event.target.closest("[data-node]")?.dataset.node || "");
  }

  return html`
    <section class="graph-pane" aria-label="Graph">
      ${!drawn && html`<p class="stale">${svg ? "The last drawing without errors" : "No drawing: the workflow has errors"}</p>`}
      <div class=${drawn ? "scroller" : "scroller old"} ref=${scroller} tabindex="0" aria-label="Drawing of the workflow; plus and minus zoom, arrow keys move"
        onKeyDown=${onKeyDown} onPointerDown=${onPointerDown} onPointerMove=${onPointerMove} onClick=${onClick}></div>
      <div class="zoom" role="group" aria-label="Zoom">
        <button title="Zoom out (−)" aria-label="Zoom out" onClick=${() => setScale(zoom / 1.25)}>−</button>
        <button title="Show all (0)" onClick=${() => fit()}>${Math.round(zoom * 100)} %</button>
        <button title="Zoom in (+)" aria-label="Zoom in" onClick=${() => setScale(zoom * 1.25)}>+</button>
      </div>
      <${Hover} scroller=${scroller} run=${run} find=${find} />
      ${menu && html`<${Menu} ...${menu} onClose=${() => setMenu(null)} />`}
    </section>`;
}

function insertDrawing(parent, text) {
  const drawing = text ? new DOMParser().parseFromString(text, "image/svg+xml").documentElement : null;
  if (drawing) {
    for (const node of drawing.querySelectorAll("[data-node]")) {
      node.setAttribute("tabindex", "0");
      node.setAttribute("role", "button");
    }
    drawing.setAttribute("role", "group");
  }
  parent.replaceChildren(...(drawing ? [document.importNode(drawing, true)] : []));
  return parent.firstElementChild;
}

function resize(drawing, scale) {
  if (!drawing) return;
  const { width, height } = drawing.viewBox.baseVal;
  drawing.style.width = `${width * scale}px`;
  drawing.style.height = `${height * scale}px`;
}

const findNode = (drawing, path) => drawing?.querySelector(`[data-node="${CSS.escape(path)}"]`);

function isVisible(node, scroller) {
  const [inner, outer] = [node.getBoundingClientRect(), scroller.getBoundingClientRect()];
  return inner.left >= outer.left && inner.right <= outer.right && inner.top >= outer.top && inner.bottom <= outer.bottom;
}

// The path of the innermost drawn node that a path such as nodes.sample.body.guided.in.scale leads into.
function nearestNode(drawn, path) {
  for (let part = path; part; part = part.slice(0, Math.max(part.lastIndexOf("."), 0))) {
    if (drawn.has(part)) return part;
  }
  return "";
}

function markSelection(drawing, groups, selected, problems) {
  if (!drawing) return;
  const wrong = new Set(problems.map((problem) => nearestNode(groups, problem.path)));
  for (const wire of drawing.querySelectorAll(".wire[data-path]")) wire.classList.toggle("selected", wire.dataset.path === selected);
  for (const [path, group] of groups) {
    group.classList.toggle("selected", path === selected);
    group.classList.toggle("wrong", wrong.has(path));
  }
}

const marks = new WeakMap(); // what a drawn node shows of a run, so that only what has changed is drawn

function markProgress(groups, nodes, isRunning) {
  for (const [path, group] of groups) {
    const state = nodes[path];
    const mark = [isRunning && state?.state === "running", state?.state === "failed", describeState(state)];
    if (String(mark) === marks.get(group)) continue;
    marks.set(group, String(mark));
    group.classList.toggle("running", mark[0]);
    group.classList.toggle("failed", mark[1]);
    showTime(group, mark[2]);
  }
}

function describeState(state) {
  if (!state) return "";
  if (state.state === "running" && state.total) return `${state.done}/${state.total}`;
  if (state.origin && state.origin !== "computed") return "cached";
  return state.seconds === undefined ? "" : formatSeconds(state.seconds);
}

function showTime(group, text) {
  let label = group.querySelector(":scope > .time");
  if (!label && text) {
    const box = group.querySelector("rect.node, rect.loop");
    label = document.createElementNS(SVG, "text");
    label.setAttribute("class", "time");
    label.setAttribute("x", +box.getAttribute("x") + +box.getAttribute("width") - 8);
    label.setAttribute("y", +box.getAttribute("y") - 4);
    group.append(label);
  }
  if (label) label.textContent = text;
}
