// The page: the workflow's file is the state; this shows it, and asks the server for edits and runs.

import { html, render, useCallback, useEffect, useMemo, useRef, useState } from "./vendor/htm-preact.js";
import { get, listen, openPicture, post, postInTurn } from "./api.js";
import { formatValue } from "./format.js";
import { Gallery } from "./gallery.js";
import { Graph } from "./graph.js";
import { findTarget } from "./links.js";
import { NodePanel } from "./node.js";
import { paceNews } from "./pace.js";
import { Palette } from "./palette.js";
import { RunPanel } from "./run.js";
import { Text } from "./text.js";
import { WirePanel } from "./wire.js";

const PANES = [["graph", "Graph"], ["text", "Text"], ["run", "Run"], ["node", "Node"], ["add", "Add"], ["runs", "Runs"]];
const EVERYWHERE = { block: "nodes" };
const NO_TEXTS = {};
const NO_AXES = {};
function readName() {
  try {
    return decodeURIComponent(location.hash.slice(1));
  } catch {
    return ""; // a lone % is not a name
  }
}

// The run that the panel shows: the one that runs, else the next to run, else the last.
const chooseJob = (rows) => rows.find((job) => job.status === "running") || rows.find((job) => job.status === "queued") || rows.at(-1);

function App() {
  const [names, setNames] = useState([]);
  const [name, setName] = useState(readName());
  const [view, setView] = useState(null);
  const [failure, setFailure] = useState("");
  const [online, setOnline] = useState(true);
  const [selected, setSelected] = useState("");
  const [line, setLine] = useState(0);
  const [pane, setPane] = useState("graph");
  const [panel, setPanel] = useState("run");
  const [jobs, setJobs] = useState({});
  const [texts, setTexts] = useState({});
  const [axes, setAxes] = useState({});
  const [problems, setProblems] = useState([]);
  const [place, setPlace] = useState(EVERYWHERE);
  const [search, setSearch] = useState(""); // kept while the palette is not shown
  const [draft, setDraft] = useState(null);
  const [resumable, setResumable] = useState(null);
  const latest = useRef(0);
  const shown = useRef(""); // an edit that ends after the person has gone elsewhere selects nothing
  shown.current = [name, selected, pane, panel].join("\n");
  const lastChange = useRef(null); // promises the end of the last change that was sent
  const refusals = useRef(0); // of changes

  useEffect(() => {
    const onHash = () => setName(readName());
    addEventListener("hashchange", onHash);
    get("api/workflows").then(({ names }) => {
      setNames(names);
      if (!names.includes(readName())) location.replace(`#${encodeURIComponent(names[0] || "")}`);
      if (!names.length) setFailure("There is no workflow in this folder.");
    }, (error) => setFailure(error.message));
    const onTrouble = (event) => setFailure(event.detail);
    addEventListener("trouble", onTrouble);
    return () => {
      removeEventListener("hashchange", onHash);
      removeEventListener("trouble", onTrouble);
    };
  }, []);

  const load = useCallback(async () => {
    if (name !== readName()) return; // an edit has ended whose workflow is no longer open
    const number = ++latest.current;
    const isCurrent = () => number === latest.current && name === readName();
    try {
      const next = await get("api/view", { name });
      if (!isCurrent()) return;
      setView(next);
      setFailure("");
    } catch (error) {
      if (isCurrent()) setFailure(error.message);
    }
  }, [name]);

  const drawNews = useMemo(() => paceNews((rows) => setJobs((old) => mergeJobs(old, rows))), []); // one for all workflows, so that rows stay in order

  useEffect(() => {
    if (!name) return undefined;
    document.title = `${name} · guidegraph`;
    setSelected("");
    setProblems([]);
    setView(null);
    setPlace(EVERYWHERE);
    setSearch("");
    setDraft(null);
    setResumable(null);
    return listen(name, {
      file: load,
      jobs: drawNews,
      online: (state) => {
        setOnline(state);
        if (state) load();
      },
      refused: () => {
        setOnline(true);
        load();
      },
    });
  }, [name]);

  const own = texts[name] || NO_TEXTS;
  const select = (path) => {
    setSelected(path);
    setLine(0);
    if (path) {
      setPanel("node");
      if (matchMedia("(max-width: 999px)").matches) setPane("node");
    }
  };
  const setText = (param, value) => setTexts((old) => ({ ...old, [name]: { ...old[name], [param]: value } }));

  // The texts in the form that differ from the defaults.
  const readParams = () => Object.fromEntries(Object.entries(own).filter(([key, value]) => value !== undefined && view.params.some((param) => param.name === key && param.default !== value)));

  // Whether the person is still at the workflow to which an answer belongs.
  const isHere = () => name === readName();

  // A job that was begun here. The events may have told of it already, and what they tell is newer.
  const addJob = (job) => setJobs((old) => (old[job.number] ? old : mergeJobs(old, [job])));

  // Run, or go on from the stopped run in a folder.
  async function run(resume = "") {
    setPanel("run");
    try {
      addJob(await postInTurn("api/runs", { name, params: readParams(), resume }));
      if (!isHere()) return;
      setProblems([]);
      setResumable(null);
    } catch (error) {
      if (isHere()) setProblems(error.problems.length ? error.problems : [{ code: "error", message: error.message, path: "" }]);
    }
  }

  // Run a grid over the values of one or two parameters; returns the problems for which it was refused.
  async function runGrid(axes) {
    try {
      addJob(await postInTurn("api/grids", { name, params: readParams(), axes }));
      return [];
    } catch (error) {
      return error.problems.length ? error.problems : [{ code: "error", message: error.message, path: "" }];
    }
  }

  // Make an edit; returns the problems for which it was refused.
  const edit = (change) => send("api/edits", change);

  async function saveDefault(change) {
    const problems = await edit(change);
    if (isHere()) setProblems(problems);
  }

  // Rename the selected node, or remove it if its new name is null.
  async function changeNode(path, newName) {
    const before = shown.current;
    const problems = await send("api/nodes", { path, new_name: newName });
    if (!problems.length && shown.current === before) setSelected(newName === null ? "" : path.slice(0, path.lastIndexOf(".") + 1) + newName);
    return problems;
  }

  // Wire a place to a link, or remove its link `old` if the new one is null; a refusal is also shown above the graph.
  async function wire(change) {
    const problems = await send("api/wires", change);
    if (isHere()) setFailure(problems[0]?.message || "");
    return problems;
  }

  // Remove a link of the selected wire, and select the node at its end.
  async function removeLink(path, link, node) {
    const before = shown.current;
    const problems = await wire({ path, link: null, old: link });
    if (!problems.length && shown.current === before) select(node);
    return problems;
  }

  async function addNode(node) {
    const before = shown.current;
    const problems = await send("api/add", node);
    if (problems.length || !isHere()) return problems;
    setDraft(null);
    setPlace({ block: node.block });
    if (shown.current === before) select(`${node.block}.${node.label}`);
    return [];
  }

  // A node of the palette was dropped: add it if all of its links are clear, and ask otherwise.
  async function dropNode(next, use) {
    try {
      const drafted = await get("api/draft", { name, use, ...next });
      if (!isHere()) return undefined;
      setPlace({ block: drafted.block, ...next });
      if (!drafted.complete || !drafted.path) return setDraft(drafted);
      const inputs = Object.fromEntries(drafted.ports.filter((port) => port.link).map((port) => [port.name, port.link]));
      const { block, path, output } = drafted;
      const problems = await addNode({ label: drafted.name, use, block, path, old: drafted.link, output, inputs, settings: {} });
      if (problems.length && isHere()) setDraft(drafted);
    } catch (error) {
      if (isHere()) setFailure(error.message);
    }
    return undefined;
  }

  function openPalette(next) {
    setDraft(null);
    setPlace(next);
    setSearch("");
    choose("add");
  }

  // A wire was dropped where nothing is: offer nodes that take the link, or remove the wire of the port.
  async function offer(start) {
    if (start.link) return openPalette({ block: start.block, link: start.link });
    try {
      const { links } = await get("api/links", { name, path: start.path });
      if (links.length === 1) await wire({ path: start.path, link: null, old: links[0] });
    } catch (error) {
      setFailure(error.message);
    }
    return undefined;
  }

  // Send a change. A refusal is also shown above the graph if the person has left the panel that would show it.
  function send(address, body) {
    const before = shown.current;
    const answer = postInTurn(address, { name, ...body }).then(load).then(() => [], (error) => {
      const refused = error.problems.length ? error.problems : [{ code: "error", message: error.message, path: "" }];
      refusals.current += 1;
      if (shown.current !== before && isHere()) setFailure(refused[0].message);
      return refused;
    });
    lastChange.current = answer;
    return answer;
  }

  async function undo() {
    try {
      await postInTurn("api/undo", { name });
      await load();
    } catch (error) {
      if (isHere()) setFailure(error.problems[0]?.message || error.message);
    }
  }

  useEffect(() => {
    const onKey = async (event) => {
      if ((event.ctrlKey || event.metaKey) && event.key === "Enter" && !event.repeat && view?.drawn) {
        event.preventDefault();
        if (document.activeElement?.closest(".node-panel")) document.activeElement.blur(); // its edit comes before the run
        const before = refusals.current;
        await lastChange.current;
        if (refusals.current === before && isHere()) run();
      }
    };
    addEventListener("keydown", onKey);
    return () => removeEventListener("keydown", onKey);
  });

  // Open the workflow of a picture that was dropped or chosen.
  async function open(file) {
    try {
      const opened = await openPicture(file);
      setNames((old) => (old.includes(opened) ? old : [...old, opened]));
      location.hash = encodeURIComponent(opened);
      setFailure("");
    } catch (error) {
      setFailure(`${file.name}: ${error.problems[0]?.message || error.message}`);
    }
  }

  useEffect(() => {
    const hasFiles = (event) => [...(event.dataTransfer?.types || [])].includes("Files");
    const onOver = (event) => hasFiles(event) && event.preventDefault();
    const onDrop = (event) => {
      if (!hasFiles(event)) return;
      event.preventDefault();
      if (event.dataTransfer.files.length) open(event.dataTransfer.files[0]);
    };
    addEventListener("dragover", onOver);
    addEventListener("drop", onDrop);
    return () => {
      removeEventListener("dragover", onOver);
      removeEventListener("drop", onDrop);
    };
  }, []);

  const rows = Object.values(jobs);
  const job = chooseJob(rows.filter((other) => other.name === name));
  const ended = job && !["queued", "running"].includes(job.status) ? job.number : 0;
  const find = useCallback((link, at) => {
    const path = findTarget(link, at, view);
    return path && { path, output: link.split(".")[1] || "" };
  }, [view]);
  const finished = rows.filter((other) => !["queued", "running"].includes(other.status)).length;
  const choose = (next) => {
    setPane(next);
    if (!["graph", "text"].includes(next)) setPanel(next);
  };
  const use = (params) => {
    setTexts((old) => ({ ...old, [name]: Object.fromEntries(Object.entries(params).map(([key, value]) => [key, formatValue(value)])) }));
    choose("run");
  };

  // What shows nothing of a run's progress stays as it is while the progress comes in.
  const text = useMemo(() => view && html`<${Text} text=${view.text} problems=${view.problems} nodes=${view.nodes} selected=${selected} line=${line || lineOfWire(view, selected)} onSelect=${select} />`, [view, selected, line]);
  const state = job?.nodes[selected];
  const otherPanel = useMemo(() => view && html`
    ${panel === "node" && (!isWire(view, selected)
      ? html`<${NodePanel} name=${name} path=${selected} view=${view} run=${ended} state=${state} onSelect=${select} onEdit=${edit} onChange=${changeNode} onWire=${wire} onOffer=${openPalette} />`
      : html`<${WirePanel} name=${name} path=${selected} view=${view} run=${ended} onSelect=${select} onWire=${wire} onRemove=${removeLink} onInsert=${openPalette} />`)}
    ${panel === "add" && html`<${Palette} ...${{ name, view, place, search, draft }} onSearch=${setSearch} onDraft=${setDraft} onAdd=${addNode}
      onPlace=${(next, use) => (use ? dropNode(next, use) : setPlace(next))} />`}
    ${panel === "runs" && html`<${Gallery} finished=${finished} onUse=${use} name=${name}
      onPicture=${open} onResume=${(row) => { use(row.params); setResumable({ folder: row.folder }); }} />`}`, [name, view, panel, selected, ended, state, place, search, draft, finished]);

  return html`
    <header>
      <h1 class="mark">guidegraph</h1>
      ${names.length > 1
        ? html`<select class="file" aria-label="Workflow" value=${name} onChange=${(event) => { location.hash = encodeURIComponent(event.target.value); }}>
            ${names.map((other) => html`<option value=${other}>${other}</option>`)}</select>`
        : html`<span class="file">${name}</span>`}
      ${view && html`<${Status} view=${view} />`}
      ${view?.undo > 0 && html`<button onClick=${undo} title="Undo the last edit made here">Undo</button>`}
      <span class="space"></span>
      ${job?.status === "running" && html`<span class="faint">run ${job.number} is running</span>`}
    </header>
    ${!online && html`<p class="banner" role="alert">The server does not answer. The page goes on when it is back; if 'guidegraph open' was started again, open its new address.</p>`}
    ${online && failure && html`<p class="banner" role="alert">${failure}</p>`}
    <nav aria-label="Panes"><div class="panes" role="tablist" aria-label="Panes">${PANES.map(([key, title]) => html`
      <button role="tab" aria-selected=${pane === key} onClick=${() => choose(key)}>${title}</button>`)}</div></nav>
    ${view && html`
      <main class=${`show-${["graph", "text"].includes(pane) ? pane : "panel"}`}>
        <div class="left">
          ${view.problems.length > 0 && html`<ul class="problems" aria-label="Problems">${view.problems.map((problem) => html`
            <li><button onClick=${() => { setLine(problem.line); setSelected(nodeOf(view, problem.path)); }}>
              <span class="where">${problem.here ? "" : `${problem.file}:`}${problem.line}</span> <b>${problem.code}</b> ${problem.message}</button></li>`)}</ul>`}
          <${Graph} name=${name} svg=${view.svg} drawn=${view.drawn} readonly=${view.readonly} selected=${selected} onSelect=${select}
            onWire=${wire} onOffer=${offer} onFailure=${(error) => setFailure(error.message)} run=${ended} find=${find} problems=${view.problems} nodes=${job?.nodes || {}} isRunning=${job?.status === "running"} />
          ${text}
        </div>
        <aside>
          <div class="tabs" role="tablist" aria-label="Panel">${PANES.slice(2).map(([key, title]) => html`
            <button role="tab" aria-selected=${panel === key} onClick=${() => choose(key)}>${title}</button>`)}</div>
          <div class="panel" role="tabpanel" tabindex="0" aria-label=${panel}>
            ${panel === "run" && html`<${RunPanel} view=${view} texts=${own} onText=${setText} axes=${axes[name] || NO_AXES} onAxes=${(next) => setAxes((old) => ({ ...old, [name]: next }))} job=${job} jobs=${rows} problems=${problems} name=${name} onRun=${() => run()} onGrid=${runGrid} onUse=${use}
              resumable=${resumable || job?.stopped && { folder: job.folder, done: job.stopped.done }} onResume=${run}
              onStop=${(number) => post(`api/runs/${number}/stop`).catch((error) => setFailure(error.message))}
              onCancel=${(number) => post(`api/runs/${number}/cancel`).catch((error) => setFailure(error.message))} onEdit=${saveDefault} />`}
            ${panel !== "run" && otherPanel}
          </div>
        </aside>
      </main>`}`;
}

function Status({ view }) {
  const count = view.problems.length;
  if (count) return html`<span class="status failed">${count} ${count === 1 ? "problem" : "problems"}</span>`;
  return html`<span class="status done">valid</span>${view.readonly && html`<span class="faint wide" title=${view.readonly}>read-only</span>`}`;
}

// The node that a problem's path leads into.
function nodeOf(view, path) {
  for (let part = path; part; part = part.slice(0, Math.max(part.lastIndexOf("."), 0))) {
    if (view.nodes[part]) return part;
  }
  return "";
}

// Whether a path is that of a link, such as nodes.guided.in.cond.
const isWire = (view, path) => /^outputs\.|^\.(in|carry|next|collect|loop|choose)\./.test(path.slice(nodeOf(view, path).length));

// The line of a link, or of its node; 0 for other paths.
function lineOfWire(view, path) {
  const owner = nodeOf(view, path);
  if (!owner || !isWire(view, path)) return 0;
  return view.nodes[owner].arguments?.[path.slice(owner.length).split(".")[2]]?.line || view.nodes[owner].line;
}

// The server sends only the nodes of each job that have changed.
function mergeJobs(old, rows) {
  const next = { ...old };
  for (const row of rows) next[row.number] = { ...row, nodes: { ...old[row.number]?.nodes, ...row.nodes } };
  return next;
}

render(html`<${App} />`, document.getElementById("app"));
