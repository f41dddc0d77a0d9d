// Numbers and texts for the reader.

import { html } from "./vendor/htm-preact.js";

export function formatSeconds(seconds) {
  if (seconds < 0.0095) return `${(seconds * 1000).toFixed(1)} ms`;
  if (seconds < 0.995) return `${Math.round(seconds * 1000)} ms`;
  if (seconds < 99.5) return `${seconds.toFixed(1)} s`;
  const whole = Math.round(seconds);
  const minutes = Math.floor(whole / 60);
  return minutes < 60 ? `${minutes} min ${whole % 60} s` : `${Math.floor(minutes / 60)} h ${minutes % 60} min`;
}

// The URL path of a file in a run's folder; a workflow may be called "cat #2".
export const fileAddress = (folder, file, route = "runs") => `${route}/${`${folder}/${file}`.split("/").map(encodeURIComponent).join("/")}`;

export const shortPath = (path) => path.replace(/^nodes\./, "").replaceAll(".body.", " › ");

// Show a small picture that has just loaded with its pixels, not blurred.
export const sharpen = (event) => event.target.classList.toggle("small", event.target.naturalWidth <= 160);

// A docstring as paragraphs, with `code` set in a fixed width.
export function Prose({ text }) {
  const paragraphs = text.split(/\n\s*\n/).filter((paragraph) => paragraph.trim());
  return paragraphs.map((paragraph) => html`<p>${withCode(paragraph)}</p>`);
}

// A text with its `code` set in a fixed width.
export const withCode = (text) => text.split(/(`+[^`]+`+)/).map(formatCode);

const formatCode = (piece) => (piece.startsWith("`") ? html`<code>${piece.replaceAll("`", "")}</code>` : piece);

export const formatValue = (value) => (typeof value === "string" ? value : JSON.stringify(value));
