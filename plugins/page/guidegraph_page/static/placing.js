// Dragging a node from the palette into the drawing: onto a wire, or into a block.

import { get, reportTrouble } from "./api.js";
import { scrollAtEdge, wireAt } from "./wiring.js";

const START = 5;

// Begin at a row of the palette. onPlace gets the wire's path and link, or the block.
export function startPlacing(event, use, name, onPlace) {
  if (event.button !== 0 || event.pointerType !== "mouse") return;
  const drawing = document.querySelector(".scroller svg");
  if (!drawing) return;
  const origin = { x: event.clientX, y: event.clientY };
  const ghost = document.createElement("div");
  ghost.className = "ghost";
  ghost.textContent = use;
  let wires = new Set();
  let asked = null;
  let over = null;

  function move(next) {
    const isNear = Math.hypot(next.clientX - origin.x, next.clientY - origin.y) < START;
    if (!ghost.isConnected && isNear) return;
    if (!drawing.isConnected) return void abandon(); // the file has changed, and is drawn anew
    if (!ghost.isConnected) begin();
    next.preventDefault();
    ghost.style.transform = `translate(${next.clientX + 10}px, ${next.clientY + 10}px)`;
    scrollAtEdge(drawing.parentElement, next);
    show(next);
  }

  function show(next) {
    over?.classList.remove("over");
    over = findPlace(next);
    over?.classList.add("over");
  }

  function begin() {
    document.body.append(ghost);
    drawing.classList.add("placing");
    asked = get("api/insertions", { name, use }).then((answer) => {
      wires = new Set(answer.wires.map(({ path, link }) => `${path} ${link}`));
      if (!ghost.isConnected) return;
      for (const wire of drawing.querySelectorAll(".wire[data-path]")) wire.classList.toggle("fits", fits(wire));
    }, reportTrouble);
  }

  const fits = (wire) => wires.has(`${wire.dataset.path} ${wire.dataset.link}`);

  function findPlace(next) {
    const wire = wireAt(next.clientX, next.clientY);
    if (wire && fits(wire)) return wire;
    const element = document.elementFromPoint(next.clientX, next.clientY);
    if (!drawing.parentElement.contains(element)) return null;
    const loop = element.closest("rect.loop");
    return loop || drawing;
  }

  async function finish(next) {
    const isPlaced = next && ghost.isConnected;
    removeEventListener("pointermove", move);
    removeEventListener("pointerup", finish);
    removeEventListener("pointercancel", abandon);
    removeEventListener("keydown", cancel, true);
    ghost.remove();
    over?.classList.remove("over");
    drawing.classList.remove("placing");
    for (const wire of drawing.querySelectorAll(".wire.fits")) wire.classList.remove("fits");
    if (!isPlaced) return;
    swallowClick();
    await asked; // a quick drop is earlier than the answer
    over = drawing.isConnected ? findPlace(next) : null;
    if (!over) return;
    if (over.dataset.path) onPlace({ path: over.dataset.path, link: over.dataset.link });
    else onPlace({ block: over === drawing ? "nodes" : `${over.parentElement.dataset.node}.body` });
  }

  const abandon = () => finish(null);

  function cancel(next) {
    if (next.key === "Escape") abandon();
  }

  addEventListener("pointermove", move);
  addEventListener("pointerup", finish);
  addEventListener("pointercancel", abandon);
  addEventListener("keydown", cancel, true);
}

// The click that follows a drop would select what is below the pointer.
function swallowClick() {
  const swallow = (event) => event.stopPropagation();
  addEventListener("click", swallow, { capture: true, once: true });
  setTimeout(() => removeEventListener("click", swallow, { capture: true }));
}
