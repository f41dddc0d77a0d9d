// Requests to the server. A failure is an Error with the `problems` that the server found; `isTrouble`: it did not work.

async function request(path, options) {
  let response, text;
  try {
    response = await fetch(path, options);
    text = await response.text();
  } catch {
    throw Object.assign(new Error("the server does not answer: is 'guidegraph open' still running?"), { problems: [], isTrouble: true });
  }
  const isJson = response.headers.get("content-type")?.startsWith("application/json");
  const body = isJson ? JSON.parse(text) : { error: text.trim() };
  if (!response.ok) {
    throw Object.assign(new Error(body.error || response.statusText), { problems: body.problems || [], isTrouble: response.status >= 500 });
  }
  return body;
}

export const get = (path, query = {}) => request(`${path}?${new URLSearchParams(query)}`);

export const post = (path, body = {}) =>
  request(path, { method: "POST", headers: { "content-type": "application/json" }, body: JSON.stringify(body) });

let latest = Promise.resolve();

// Posts when the posts before it in turn are answered: edits and runs, for the server may take requests in any order.
export function postInTurn(path, body) {
  const answer = latest.then(() => post(path, body));
  latest = answer.catch(() => {});
  return answer;
}

// Promises the name of the workflow in a picture, a File.
export const openPicture = async (file) =>
  (await request(`api/pictures?${new URLSearchParams({ file: file.name })}`, { method: "POST", headers: { "content-type": "image/png" }, body: file })).name;

// Reports a server that does not work to the page. For requests whose refusal needs no words, as there is nothing to show.
export const reportTrouble = (error) => error.isTrouble && dispatchEvent(new CustomEvent("trouble", { detail: error.message }));

const RETRY = 1000; // milliseconds

// Calls `on.file` when the workflow's file has changed, `on.jobs` with news of runs, `on.online` when the connection to
// the server begins or ends, and `on.refused` each time that the server answers with an error. Returns a function that
// ends it. A hidden page has no connection, because a browser opens only six to a server for all of its tabs.
export function listen(name, on) {
  let source = null;
  let timer = 0;
  function close() {
    clearTimeout(timer);
    source?.close();
    source = null;
  }
  function open() {
    close();
    if (document.hidden) return;
    source = new EventSource(`api/events?${new URLSearchParams({ name })}`);
    source.addEventListener("open", () => on.online(true));
    source.addEventListener("error", onError);
    source.addEventListener("file", () => on.file());
    source.addEventListener("jobs", (event) => on.jobs(JSON.parse(event.data)));
  }
  function onError() {
    if (source.readyState !== EventSource.CLOSED) {
      on.online(false);
      return;
    }
    on.refused(); // the browser does not try again by itself
    timer = setTimeout(open, RETRY);
  }
  document.addEventListener("visibilitychange", open);
  open();
  return () => {
    document.removeEventListener("visibilitychange", open);
    close();
  };
}
