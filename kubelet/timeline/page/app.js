// The page: what is shown follows the address (its part after #), so that each view is a link.

import { $, h, link, replace } from "./dom.js";
import { connect, find, of, onChange, pause, paused, store } from "./store.js";
import * as waterfall from "./waterfall.js";
import * as panels from "./panels.js";
import * as detail from "./detail.js";

const views = { steps: "Steps", loop: "Loop", workers: "Workers", calls: "CRI calls", writes: "Status writes" };
const filter = {}; // what the address says

function readAddress() {
  const at = new URLSearchParams(location.hash.slice(1));
  for (const key of ["q", "find", "phase", "side", "errors", "open", "step", "under"]) filter[key] = at.get(key) ?? "";
  filter.pod = at.get("pod") === "node" ? "" : at.get("pod") ?? "*";
  filter.view = views[at.get("view")] ? at.get("view") : "steps";
  for (const [id, value] of [["search", filter.q], ["find-pod", filter.find], ["side", filter.side], ["phase", filter.phase]]) if ($(id).value !== value) $(id).value = value;
  for (const id of ["errors", "open"]) $(id).checked = Boolean(filter[id]);
  $("whole").hidden = !filter.under;
  $("whole").href = link({ under: "" });
  for (const id of ["json", "perfetto"]) $(id).href = `/${id === "json" ? "steps" : id}.json${filter.pod === "*" ? "" : `?${new URLSearchParams({ pod: filter.pod })}`}`;
  render();
  openStep(true);
}

const go = (values, keep) => {
  const to = link(values);
  if (to === (location.hash || "#")) return;
  if (keep) { history.replaceState(null, "", to); readAddress(); }
  else location.hash = to;
};

function openStep(scroll) {
  const step = filter.step && find(filter.step);
  if (!step) return detail.close();
  waterfall.choose(step.id, scroll);
  detail.open(step, closeStep);
}

function closeStep() {
  go({ step: "" });
  $("steps").focus();
}

// render draws everything that has changed, soon: ten times a second is live.
let due = 0, lastDraw = 0;
function render() {
  due ||= setTimeout(() => {
    due = 0;
    lastDraw = performance.now();
    draw();
  }, lastDraw + 90 - performance.now());
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
    href: link({ view: key === "steps" ? "" : key, step: "" }), "aria-current": key === filter.view ? "page" : null, title: `${name} (${i + 1})`, "data-focus": key,
  }, name)));
  if (!steps) return panels.table(filter.view);
  panels.about(filter);
  const start = performance.now();
  $("steps").dataset.all = filter.pod === "*" ? "1" : "";
  const { shown, total } = waterfall.select(filter);
  replace($("count"), `${shown}/${total}`, () => shown === total ? `${total} steps` : `${shown} of ${total} steps`);
  waterfall.draw();
  performance.measure("draw", { start });
  if (filter.step && $("detail").hidden) openStep(true);
}

// tell says aloud which pods changed.
let told = null;
function tell() {
  if (!store.state) return;
  const pods = store.state.pods;
  const news = pods.filter((p) => told && told.get(p.uid) !== panels.look(p)).slice(0, 3);
  if (news.length) $("say").textContent = news.map((p) => `${p.pod}: ${panels.look(p)}`).join(", ");
  told = new Map(pods.map((p) => [p.uid, panels.look(p)]));
}

function setPause() {
  pause(!paused());
  $("pause").setAttribute("aria-pressed", String(paused()));
  $("pause").textContent = paused() ? "Go on" : "Pause";
  document.body.classList.toggle("paused", paused());
}

function setTheme(theme) {
  document.documentElement.dataset.theme = theme;
  try { localStorage.setItem("theme", theme); } catch { /* not kept then */ }
}

const dark = () => getComputedStyle(document.documentElement).colorScheme === "dark" || !document.documentElement.dataset.theme && matchMedia("(prefers-color-scheme: dark)").matches;

function otherPod(by) {
  const links = [...$("pod-list").querySelectorAll("a")];
  const at = links.findIndex((a) => a.getAttribute("aria-current"));
  links[Math.max(0, Math.min(links.length - 1, at + by))]?.click();
}

function onlyThis() {
  const step = waterfall.current();
  if (filter.under) go({ under: "" });
  else if (step) go({ under: step.id, pod: step.pod || "node" });
}

// keys are what the page does for each key, and how the list of keys names those that are together.
const keys = [
  ["/", "search the steps", { "/": () => $("search").focus() }],
  ["↓ ↑ or j k", "next, previous step", { j: () => waterfall.move(1), k: () => waterfall.move(-1), ArrowDown: () => waterfall.move(1), ArrowUp: () => waterfall.move(-1) }],
  ["Page, Home, End", "further on, first, last step", { PageDown: () => waterfall.move(15), PageUp: () => waterfall.move(-15), Home: () => waterfall.move(-Infinity), End: () => waterfall.move(Infinity) }],
  ["Enter", "open the step", { Enter: () => waterfall.current() && go({ step: waterfall.current().id }) }],
  ["Esc", "close it", { Escape: closeStep }],
  ["[ ]", "previous, next pod", { "[": () => otherPod(-1), "]": () => otherPod(1) }],
  ["1 … 5", "views", Object.fromEntries(Object.keys(views).map((view, i) => [i + 1, () => go({ view: view === "steps" ? "" : view, step: "" })]))],
  ["z", "only this step and its parts, and all again", { z: onlyThis }],
  ["p", "pause and go on", { p: setPause }],
  ["t", "dark or light", { t: () => setTheme(dark() ? "light" : "dark") }],
  ["r", "release the first held step", { r: () => $("held").querySelector("form:not([data-sent]) button")?.click() }],
  ["?", "this list", { "?": () => $("keys").showModal() }],
];
const act = Object.assign({}, ...keys.map(([, , does]) => does));
$("key-list").replaceChildren(...keys.map(([key, what]) => h("div", {}, h("dt", {}, key), h("dd", {}, what))));

function onKey(e) {
  const tag = e.target.tagName;
  if (e.ctrlKey || e.metaKey || e.altKey || $("keys").open || !act[e.key]) return;
  if (/^(INPUT|TEXTAREA|SELECT)$/.test(tag) && e.key !== "Escape" || /^(A|BUTTON|SUMMARY)$/.test(tag) && e.key === "Enter" || e.target.closest("#pods, #detail, #table, #held") && /^(Arrow|Page|Home|End)/.test(e.key)) return;
  act[e.key]();
  e.preventDefault();
}

try { if (localStorage.getItem("theme")) setTheme(localStorage.getItem("theme")); } catch { /* the system's then */ }
addEventListener("hashchange", readAddress);
addEventListener("keydown", onKey);
$("search").addEventListener("input", () => go({ q: $("search").value, step: "" }, true));
for (const id of ["side", "phase"]) $(id).addEventListener("change", () => go({ [id]: $(id).value }, true));
for (const id of ["errors", "open"]) $(id).addEventListener("change", () => go({ [id]: $(id).checked ? "1" : "" }, true));
$("find-pod").addEventListener("input", () => go({ find: $("find-pod").value }, true));
document.querySelector(".skip").addEventListener("click", (e) => { e.preventDefault(); $($("steps").hidden ? "table" : "steps").focus(); });
for (const [id, key] of [["pause", "p"], ["theme", "t"], ["help", "?"]]) $(id).addEventListener("click", act[key]);
waterfall.listen((step) => go({ step: step.id }));
onChange(() => { tell(); render(); });
// What goes on grows, without news of it. The chosen step is asked for again while it does.
setInterval(() => { if (!paused() && filter.view === "steps" && waterfall.anyOpen()) render(); }, 250);
setInterval(() => {
  const step = filter.step && find(filter.step);
  if (step && !paused() && (step.to === null || $("detail").dataset.change !== String(step.change))) { $("detail").dataset.change = step.change; detail.open(step, closeStep); }
}, 1000);
readAddress();
connect();

globalThis.timeline = { store, of, filter }; // for tests: what the page has, without looking at its pixels
