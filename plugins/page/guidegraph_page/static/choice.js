// A list to choose from, each choice of which is an edit.

import { html, useEffect, useRef } from "./vendor/htm-preact.js";

const REST = 1000; // milliseconds without a key; so long does a browser take letters as the beginning of one option

// onChange: called with each option that is passed, onChoose: with the one that is chosen. Letters and arrows pass others
// on the way, so a choice by keys is made when they rest, by Enter, or on leaving.
export function Choice({ onChange, onChoose, children, ...attributes }) {
  const pending = useRef(null); // a function, of the time of the choice: by the end of the wait the page may show another workflow
  const timer = useRef(0);
  const byKeys = useRef(false);
  function settle() {
    clearTimeout(timer.current);
    const choose = pending.current;
    pending.current = null;
    choose?.();
  }
  function wait() {
    clearTimeout(timer.current);
    timer.current = setTimeout(settle, REST);
  }
  function change(event) {
    const text = event.target.value;
    pending.current = () => onChoose(text);
    onChange?.(text);
    if (byKeys.current) wait();
    else settle();
  }
  function press(event) {
    byKeys.current = true;
    if (event.key === "Enter") settle();
    else if (pending.current !== null) wait();
  }
  useEffect(() => settle, []);
  return html`<select ...${attributes} onChange=${change} onKeyDown=${press} onPointerDown=${() => { byKeys.current = false; }} onBlur=${settle}>${children}</select>`;
}
