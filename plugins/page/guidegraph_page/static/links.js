// Links in the text of a workflow, such as model.text.

// The path of the node that a link leads to: in the same block, or in one around it; empty for other links.
export function findTarget(text, path, view) {
  const name = text.split(".")[0];
  for (let block = path; block; ) {
    block = block.slice(0, Math.max(block.lastIndexOf("."), 0));
    const target = `${block}.${name}`;
    if (view.nodes[target]) return target;
  }
  return "";
}

export const splitLinks = (text) => (text.startsWith("[") ? text.slice(1, -1).split(", ").filter(Boolean) : [text]);
