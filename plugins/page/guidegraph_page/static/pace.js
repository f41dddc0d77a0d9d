// The pace at which the page draws the progress of runs, which compute on the same processors.

const SHARE = 0.01;
const LONGEST = 3000; // milliseconds

const describeState = (row) => `${row.status} ${row.stopping}`;

// Wraps a function that draws news of runs, a list of rows. A row whose run begins, ends or is about to stop is drawn at
// once. Progress waits so long that drawing takes about `SHARE` of the time, and `LONGEST` at most; rows that have waited
// are drawn together, in their order.
export function paceNews(draw) {
  const states = {}; // by number of the run
  let waiting = [];
  let timer = 0;
  let free = 0; // the time from which progress may be drawn
  function flush() {
    clearTimeout(timer);
    timer = 0;
    const rows = waiting;
    waiting = [];
    const begun = performance.now();
    draw(rows);
    if (document.hidden) return; // nothing is drawn until it is shown
    requestAnimationFrame(() => setTimeout(() => {
      const drawn = performance.now();
      free = drawn + Math.min((drawn - begun) / SHARE, LONGEST);
    }));
  }
  return (rows) => {
    const isUrgent = rows.some((row) => describeState(row) !== states[row.number]);
    for (const row of rows) states[row.number] = describeState(row);
    waiting.push(...rows);
    if (isUrgent) flush();
    else timer ||= setTimeout(flush, Math.max(0, free - performance.now()));
  };
}
