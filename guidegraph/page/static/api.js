// Requests to the server. A failure is an Error with the `problems` that the server found.

async function request(path, options) {
  let response;
  try {
    response = await fetch(path, options);
  } catch {
    throw Object.assign(new Error("the server does not answer: is 'guidegraph open' still running?"), { problems: [] });
  }
  const body = await response.json().catch(() => ({}));
  if (!response.ok) {
    throw Object.assign(new Error(body.error || response.statusText), { problems: body.problems || [] });
  }
  return body;
}

export const get = (path, query = {}) => request(`${path}?${new URLSearchParams(query)}`);

export const post = (path, body = {}) =>
  request(path, { method: "POST", headers: { "content-type": "application/json" }, body: JSON.stringify(body) });

// Calls `on.file` when the workflow's file has changed, `on.jobs` with news of runs, and `on.online` when the connection
// to the server begins or ends. Returns a function that ends it.
export function listen(name, on) {
  const source = new EventSource(`api/events?${new URLSearchParams({ name })}`);
  source.addEventListener("open", () => on.online(true));
  source.addEventListener("error", () => on.online(false));
  source.addEventListener("file", () => on.file());
  source.addEventListener("jobs", (event) => on.jobs(JSON.parse(event.data)));
  return () => source.close();
}
