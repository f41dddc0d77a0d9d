// The bounds of numbers, {low, above, high, below}, of which some are given. Integers beyond 2⁵³ are texts.

/** The bounds in words, to follow "a number", as guidegraph_runtime/checks.py words them; "" if there are none. */
export function describeBounds({ low, above, high, below }) {
  const start = low !== undefined ? ` of at least ${low}` : above !== undefined ? ` above ${above}` : "";
  const end = high !== undefined ? `at most ${high}` : below !== undefined ? `below ${below}` : "";
  if (!start || !end) return start || (end && (high !== undefined ? ` of ${end}` : ` ${end}`));
  return `${start} and ${end}`;
}

export function isWithin({ low, above, high, below }, value) {
  return (low === undefined || value >= low) && (above === undefined || value > above)
    && (high === undefined || value <= high) && (below === undefined || value < below);
}
