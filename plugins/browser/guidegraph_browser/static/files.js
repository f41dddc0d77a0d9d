// The files of the page: fetched with their progress, and checked against page.json.

import { PageError } from "./tensors.js";

/** Whether the browser offers sha256 here: on https and on localhost. */
export const CAN_HASH = Boolean(globalThis.crypto?.subtle);

/** Fetch page.json. */
export async function fetchPage(base) {
  const response = await fetch(new URL("page.json", base), { cache: "no-cache" });
  if (!response.ok) throw new PageError(`page.json: the server answers ${response.status} ${response.statusText}`);
  return response.json();
}

/** The bytes of a file that page.json lists. progress: called with the bytes of each piece. */
export async function fetchFile(base, name, { sha256, size }, progress = () => {}) {
  const url = new URL(name, base);
  url.searchParams.set("sha256", sha256.slice(0, 16)); // a later export's file is another one in the browser's cache
  const response = await fetch(url);
  if (!response.ok) throw new PageError(`${name}: the server answers ${response.status} ${response.statusText}`);
  const bytes = new Uint8Array(size);
  let length = 0;
  for (const reader = response.body.getReader(); ;) {
    const { done, value } = await reader.read();
    if (done) break;
    if (length + value.length > size) throw new PageError(mismatch(name, `more than ${size} bytes`));
    bytes.set(value, length);
    length += value.length;
    progress(value.length);
  }
  if (length !== size) throw new PageError(mismatch(name, `${length} bytes, not ${size}`));
  if (CAN_HASH) {
    const digest = new Uint8Array(await crypto.subtle.digest("SHA-256", bytes));
    const hash = Array.from(digest, (byte) => byte.toString(16).padStart(2, "0")).join("");
    if (hash !== sha256) throw new PageError(mismatch(name, `sha256 ${hash.slice(0, 12)}…, not ${sha256.slice(0, 12)}…`));
  }
  return bytes;
}

function mismatch(name, difference) {
  return `${name} is not the file that page.json lists (${difference}): copy the page's folder again, whole`;
}
