// The page: what is shown follows the address (its part after #), so that each view is a link.

import { $, debounce, h, replace } from "./dom.js";
import { connect, of, onChange, pause, paused, store } from "./store.js";
import * as waterfall from "./waterfall.js";
import * as panels from "./panels.js";
import * as detail from "./detail.js";

const views = { steps: "Steps", loop: "Loop", workers: "Workers", calls: "CRI calls", writes: "Status writes" };
const filter = { pod: "*", q: "", phase: "", find: "", side: "", errors: false, open: false, view: "steps", step: "", under: "" };

function readAddress() {
  const at = new URLSearchParams(location.hash.slice(1));
  const pod = at.get("pod") ?? "*";
  Object.assign(filter, {
    pod: pod === "node" ? "" : pod, q: at.get("q") ?? "", phase: at.get("phase") ?? "", side: at.get("side") ?? "", step: at.get("step") ?? "", under: at.get("under") ?? "",
    errors: at.has("errors"), open: at.has("open"), view: views[at.get("view")] ? at.get("view") : "steps",
  });
  for (const [id, value] of [["search", filter.q], ["side", filter.side], ["phase", filter.phase]]) if ($(id).value !== value) $(id).value = value;
  $("errors").checked = filter.errors;
  $("open").checked = filter.open;
  const query = filter.pod === "*" ? "" : `?${new URLSearchParams({ pod: filter.pod })}`;
  $("whole").hidden = !filter.under;
  $("whole").href = detail.link({ under: "" });
  $("json").href = `/steps.json${query}`;
  $("perfetto").href = `/perfetto.json${query}`;
  render();
  if (filter.step) openStep(true);
  else detail.close();
}

const go = (values, keep) => {
  const to = detail.link(values);
  if (to === location.hash || (to === "#" && !location.hash)) return;
  if (keep) { history.replaceState(null, "", to); readAddress(); }
  else location.hash = to;
};

function openStep(scroll) {
  for (const p of store.pods.values()) {
    const step = p.byID.get(filter.step);
    if (!step) continue;
    waterfall.choose(step.id, scroll);
    detail.open(step, closeStep);
    return;
  }
  detail.close();
}

function closeStep() {
  go({ step: "" });
  $("steps").focus();
}

// render draws everything that has changed, in the next frame.
let due = false, lastDraw = 0;
function render() {
  if (due) return;
  due = true;
  requestAnimationFrame((at) => {
    due = false;
    if (at - lastDraw < 90 && !document.hidden) { setTimeout(render, 90); return; } // ten times a second is live
    lastDraw = at;
    draw();
  });
}

function draw() {
  panels.live();
  if (!store.state) return;
  const steps = filter.view === "steps";
  panels.modes();
  panels.held();
  panels.pods(filter);
  for (const id of ["about", "filters", "steps"]) $(id).hidden = !steps;
  if (!steps) $("axis").hidden = true;
  $("table").hidden = steps;
  replace($("views"), filter.view, () => Object.entries(views).map(([key, name], i) => h("a", {
    href: detail.link({ view: key === "steps" ? "" : key, step: "" }), "aria-current": key === filter.view ? "page" : null, title: `${name} (${i + 1})`, "data-focus": key,
  }, name)));
  if (!steps) return panels.table(filter.view);
  panels.about(filter);
  const start = performance.now();
  $("steps").dataset.all = filter.pod === "*" ? "1" : "";
  const { shown, total } = waterfall.select(filter);
  replace($("count"), `${shown}/${total}`, () => shown === total ? `${total} steps` : `${shown} of ${total} steps`);
  waterfall.draw();
  performance.measure("draw", { start });
  if (filter.step && $("detail").hidden) openStep(false);
}

const say = (text) => ($("say").textContent = text);

// tell says aloud which pods changed.
let told = new Map();
function tell() {
  if (!store.state) return;
  const next = new Map(store.state.pods.map((p) => [p.uid, panels.look(p)]));
  const news = store.state.pods.filter((p) => told.size && told.get(p.uid) !== next.get(p.uid)).slice(0, 3);
  if (news.length) say(news.map((p) => `${p.name}: ${panels.look(p)}`).join(", "));
  told = next;
}

function setPause(on) {
  pause(on);
  $("pause").setAttribute("aria-pressed", String(on));
  $("pause").textContent = on ? "Go on" : "Pause";
  document.body.classList.toggle("paused", on);
}

function setTheme(theme) {
  document.documentElement.dataset.theme = theme;
  try { localStorage.setItem("theme", theme); } catch { /* not kept then */ }
}

const dark = () => (document.documentElement.dataset.theme || (matchMedia("(prefers-color-scheme: dark)").matches ? "dark" : "light")) === "dark";

function otherPod(by) {
  const links = [...$("pod-list").querySelectorAll("a")];
  const at = links.findIndex((a) => a.getAttribute("aria-current"));
  links[Math.max(0, Math.min(links.length - 1, at + by))]?.click();
}

const keys = {
  "/": () => $("search").focus(), j: () => waterfall.move(1), k: () => waterfall.move(-1), ArrowDown: () => waterfall.move(1), ArrowUp: () => waterfall.move(-1),
  PageDown: () => waterfall.move(15), PageUp: () => waterfall.move(-15), Home: () => waterfall.move(-Infinity), End: () => waterfall.move(Infinity),
  Enter: () => waterfall.current() && go({ step: waterfall.current().id }), Escape: closeStep, "[": () => otherPod(-1), "]": () => otherPod(1),
  z: () => (filter.under ? go({ under: "" }) : waterfall.current() && go({ under: waterfall.current().id, pod: waterfall.current().pod || "node" })),
  p: () => setPause(!paused()), t: () => setTheme(dark() ? "light" : "dark"), "?": () => $("keys").showModal(), r: () => $("held").querySelector("button.primary")?.click(),
};

function onKey(e) {
  if (e.ctrlKey || e.metaKey || e.altKey || $("keys").open) return;
  if (/^(INPUT|TEXTAREA|SELECT)$/.test(e.target.tagName) && e.key !== "Escape") return;
  if (/^(A|BUTTON|SUMMARY)$/.test(e.target.tagName) && e.key === "Enter") return;
  if (e.target.tagName === "PRE" && /^(Arrow|Page|Home|End)/.test(e.key)) return;
  const view = Object.keys(views)[Number(e.key) - 1];
  if (view) go({ view: view === "steps" ? "" : view, step: "" });
  else if (keys[e.key]) keys[e.key]();
  else return;
  e.preventDefault();
}

try { if (localStorage.getItem("theme")) setTheme(localStorage.getItem("theme")); } catch { /* the system's then */ }
addEventListener("hashchange", readAddress);
addEventListener("keydown", onKey);
$("search").addEventListener("input", debounce(80, () => go({ q: $("search").value, step: "" }, true)));
$("side").addEventListener("change", () => go({ side: $("side").value }, true));
$("phase").addEventListener("change", () => go({ phase: $("phase").value }, true));
$("errors").addEventListener("change", () => go({ errors: $("errors").checked ? "1" : "" }, true));
$("open").addEventListener("change", () => go({ open: $("open").checked ? "1" : "" }, true));
$("find-pod").addEventListener("input", () => { filter.find = $("find-pod").value; render(); });
$("pause").addEventListener("click", () => setPause(!paused()));
$("theme").addEventListener("click", keys.t);
$("help").addEventListener("click", keys["?"]);
waterfall.setOpen((step) => go({ step: step.id }));
waterfall.listen();
onChange(() => { tell(); render(); });
// What goes on grows, without news of it. The chosen step is asked for again while it does.
setInterval(() => { if (!paused() && filter.view === "steps" && waterfall.anyOpen()) render(); }, 250);
setInterval(() => {
  const step = filter.step && [...store.pods.values()].map((p) => p.byID.get(filter.step)).find(Boolean);
  if (step && !paused() && $("detail").dataset.to !== String(step.to)) { $("detail").dataset.to = String(step.to); detail.open(step, closeStep); }
}, 1000);
readAddress();
connect();

// For tests: what the page has, without looking at its pixels.
export const page = { store, of, filter };
globalThis.timeline = page;
