// One value in a form: its text is committed by Enter, by leaving the field, or by choosing.

import { html, useLayoutEffect, useRef, useState } from "./vendor/htm-preact.js";
import { reportTrouble } from "./api.js";
import { Choice } from "./choice.js";

// field: {kind, options} from the server. onInput: called while the text changes, onCommit: with the final text.
// required: without a default. onCommit may promise the problems for which the text was refused. onSuggest: promises texts to choose from, when the field is entered.
export function Field({ id, field, value, placeholder = "", required = false, disabled = false, onInput, onCommit, onSuggest, described }) {
  const [text, setText] = useState(value);
  const committed = useRef(value); // not the value: an edit on its way has not come back yet
  const element = useRef(null);
  useLayoutEffect(() => { // at once: later, it would undo what was typed meanwhile
    const isTyping = document.activeElement === element.current && text !== committed.current;
    if (!isTyping) setText(value);
    committed.current = value;
  }, [value]);
  const [suggestions, setSuggestions] = useState([]);
  const isLong = useRef(false);
  // The element stays the same while it has the focus, or typing would end.
  if (!element.current || document.activeElement !== element.current) {
    isLong.current = (field.kind === "text" && text.length > 32) || text.includes("\n");
  }
  const isChoice = field.kind === "choice" || (field.kind === "flag" && required); // a box would show a value that is not there yet
  const options = field.options || ["true", "false"];
  const common = { id, disabled, ref: element, "aria-describedby": described };
  async function commit(next) {
    if (next === committed.current) return;
    committed.current = next;
    const problems = await onCommit?.(next);
    if (!problems?.length || committed.current !== next) return;
    if (isChoice || field.kind === "flag") {
      setText(value);
      committed.current = value;
    } else {
      committed.current = null; // any text is an edit now, the refused one too
    }
  }
  function change(next) {
    setText(next);
    onInput?.(next);
  }
  if (isChoice) {
    return html`
      <${Choice} ...${{ ...common, ref: undefined }} value=${text} onChange=${change} onChoose=${commit}>
        ${!options.includes(text) && html`<option value=${text}>${text || placeholder}</option>`}
        ${options.map((option) => html`<option value=${option}>${option}</option>`)}
      <//>`;
  }
  if (field.kind === "flag") {
    const flip = (event) => { change(String(event.target.checked)); commit(String(event.target.checked)); };
    return html`<input type="checkbox" ...${common} checked=${(text || placeholder).toLowerCase() === "true"} onChange=${flip} />`;
  }
  const handlers = {
    value: text,
    placeholder,
    spellcheck: false,
    onInput: (event) => change(event.target.value),
    onChange: (event) => commit(event.target.value),
    onKeyDown: (event) => event.key === "Enter" && !event.isComposing && (!isLong.current || event.ctrlKey || event.metaKey) && commit(event.target.value),
    onFocus: () => onSuggest?.().then(setSuggestions, (error) => { setSuggestions([]); reportTrouble(error); }),
  };
  if (isLong.current) {
    return html`<textarea ...${common} ...${handlers} rows=${Math.min(6, Math.ceil(text.length / 42) + text.split("\n").length - 1)}></textarea>`;
  }
  const list = suggestions.length > 0 && html`<datalist id=${`${id}-suggestions`}>${suggestions.map((option) => html`<option value=${option} />`)}</datalist>`;
  if (onSuggest) return html`<input type="text" list=${`${id}-suggestions`} ...${common} ...${handlers} />${list}`;
  return html`<input type="text" inputmode=${field.kind === "number" ? "decimal" : "text"} ...${common} ...${handlers} />`;
}
