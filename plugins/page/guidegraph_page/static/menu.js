// A short list of choices at a point of the page.

import { html, useEffect, useRef } from "./vendor/htm-preact.js";

// items: [{label, hint, act}]. onClose is called by a choice, Escape, or a press elsewhere.
export function Menu({ at, title, items, onClose }) {
  const list = useRef(null);
  useEffect(() => {
    list.current.querySelector("button")?.focus();
    const onPress = (event) => !list.current?.contains(event.target) && onClose();
    addEventListener("pointerdown", onPress, true);
    return () => removeEventListener("pointerdown", onPress, true);
  }, [at]);
  function onKeyDown(event) {
    const buttons = [...list.current.querySelectorAll("button")];
    const step = { ArrowDown: 1, ArrowUp: -1 }[event.key];
    if (event.key === "Escape") onClose();
    else if (step) buttons.at((buttons.indexOf(document.activeElement) + step) % buttons.length).focus();
    else return;
    event.preventDefault();
    event.stopPropagation();
  }
  const left = Math.min(at.x, innerWidth - 240);
  const top = Math.min(at.y, innerHeight - 60 - 30 * Math.min(items.length, 8));
  return html`
    <div class="menu" role="menu" aria-label=${title} ref=${list} onKeyDown=${onKeyDown} style=${{ left: `${left}px`, top: `${top}px` }}>
      <p class="faint">${title}</p>
      ${items.map((item) => html`<button role="menuitem" onClick=${() => { onClose(); item.act(); }}>${item.label} <span class="type">${item.hint}</span></button>`)}
    </div>`;
}
