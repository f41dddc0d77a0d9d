// Dragging a wire: from an output to the ports that take it, or from a port to the outputs that fit.

import { get } from "./api.js";

const SVG = "http://www.w3.org/2000/svg";
const START = 4; // pixels of movement that make a press a drag
const EDGE = 28;
const ENDS = ".dot[data-link], .dot[data-path], .pill[data-link], .output[data-path]";

// Begin at the end of a wire below the pointer; returns whether there is one. The other end is chosen by dropping:
// onDrop({path, link}) on one that fits, onChoose(offers, point) on a node with several, onEmpty(start, point) on none.
export function startWire(event, drawing, name, { onDrop, onChoose, onEmpty, onFailure }) {
  const end = event.target.closest(ENDS);
  if (!end || event.button !== 0) return false;
  event.preventDefault();
  const start = end.dataset.link ? { link: end.dataset.link, block: end.dataset.block } : { path: end.dataset.path };
  const ask = start.link ? get("api/targets", { name, ...start }).then(({ targets }) => targets.map((target) => ({ ...target, link: start.link })))
    : get("api/links", { name, ...start }).then((target) => target.options.map((link) => ({ ...target, link })));
  const box = end.getBoundingClientRect();
  const origin = { x: box.right - Math.min(box.width, box.height) / 2, y: box.top + box.height / 2 };
  let wire = null;
  let offers = null;
  ask.then((answer) => {
    offers = answer;
    if (wire) light(drawing, start, offers);
  }, () => {});

  function move(next) {
    if (!drawing.isConnected) return void finish(); // the file has changed, and is drawn anew
    if (!wire && Math.hypot(next.clientX - origin.x, next.clientY - origin.y) < START) return;
    if (!wire) {
      wire = drawing.appendChild(document.createElementNS(SVG, "path"));
      wire.setAttribute("class", "wire loose");
      drawing.classList.add("wiring");
      if (offers) light(drawing, start, offers);
    }
    scrollAtEdge(drawing.parentElement, next);
    wire.setAttribute("d", bend(drawing, origin, { x: next.clientX, y: next.clientY }, !start.link));
  }

  function finish() {
    removeEventListener("pointermove", move);
    removeEventListener("pointerup", drop);
    removeEventListener("pointercancel", finish);
    removeEventListener("keydown", cancel, true);
    wire?.remove();
    drawing.classList.remove("wiring");
    for (const lit of drawing.querySelectorAll(".fits")) lit.classList.remove("fits");
  }

  function cancel(next) {
    if (next.key !== "Escape") return;
    next.stopPropagation();
    finish();
  }

  async function drop(next) {
    const dragged = wire;
    const point = { x: next.clientX, y: next.clientY };
    finish();
    if (!dragged) return;
    const target = document.elementFromPoint(point.x, point.y);
    try {
      const fitting = findOffers(await ask, start, target);
      if (!drawing.isConnected) return;
      if (fitting.length === 1) onDrop(fitting[0]);
      else if (fitting.length) onChoose(fitting, point);
      else if (!target?.closest("[data-node] > g, [data-link], [data-path]") && drawing.parentElement.contains(target)) onEmpty(start, point);
    } catch (error) {
      onFailure(error);
    }
  }

  addEventListener("pointermove", move);
  addEventListener("pointerup", drop);
  addEventListener("pointercancel", finish);
  addEventListener("keydown", cancel, true);
  return true;
}

// The offers at an element: that of a port itself, or all of its node.
function findOffers(offers, start, element) {
  const end = element?.closest(ENDS);
  if (start.link && end?.dataset.path) return offers.filter((offer) => offer.path === end.dataset.path);
  if (!start.link && end?.dataset.link) return offers.filter((offer) => offer.link === end.dataset.link);
  const node = element?.closest("[data-node]")?.dataset.node;
  if (!node) return [];
  return offers.filter((offer) => (start.link ? offer.node === node : isOutputOf(offer.link, node)));
}

const isOutputOf = (link, node) => link.split(".")[0] === node.slice(node.lastIndexOf(".") + 1);

function light(drawing, start, offers) {
  const [paths, links] = [new Set(offers.map((offer) => offer.path)), new Set(offers.map((offer) => offer.link))];
  const nodes = new Set(offers.map((offer) => offer.node));
  for (const end of drawing.querySelectorAll(ENDS)) {
    end.classList.toggle("fits", start.link ? paths.has(end.dataset.path) : links.has(end.dataset.link));
  }
  for (const node of drawing.querySelectorAll("[data-node]")) {
    node.classList.toggle("fits", start.link ? nodes.has(node.dataset.node) : offers.some((offer) => isOutputOf(offer.link, node.dataset.node)));
  }
}

function bend(drawing, from, to, reverse) {
  const inverse = drawing.getScreenCTM().inverse();
  const [a, b] = (reverse ? [to, from] : [from, to]).map(({ x, y }) => new DOMPoint(x, y).matrixTransform(inverse));
  const half = Math.max(24, (b.x - a.x) / 2);
  return `M${a.x} ${a.y}C${a.x + half} ${a.y} ${b.x - half} ${b.y} ${b.x} ${b.y}`;
}

export function scrollAtEdge(scroller, { clientX, clientY }) {
  const box = scroller.getBoundingClientRect();
  if (clientX < box.left || clientX > box.right || clientY < box.top || clientY > box.bottom) return;
  const along = (position, low, high) => (position < low + EDGE ? -1 : position > high - EDGE ? 1 : 0);
  scroller.scrollBy(14 * along(clientX, box.left, box.right), 14 * along(clientY, box.top, box.bottom));
}

// The wire that is nearest to a point, within a few pixels.
export function wireAt(x, y) {
  for (const distance of [0, 2, 4, 6]) {
    for (const [dx, dy] of [[0, -1], [0, 1], [1, 0], [-1, 0]]) {
      const wire = document.elementFromPoint(x + dx * distance, y + dy * distance)?.closest(".wire[data-path]");
      if (wire) return wire;
    }
  }
  return null;
}
