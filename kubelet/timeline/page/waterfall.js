// The steps of a pod, or of all: which, in which order, where in time, and only those rows that can be seen.

import { $, h, took } from "./dom.js";
import { end, of, store } from "./store.js";

const rowHeight = 26;

let list = []; // {step, depth}
let scale = null; // of one pod's view
let traces = null; // of the view of all: each step's place is within its own trace
let chosen = null; // ID
let follow = true;

export const current = () => ($("steps").hidden ? null : list.find((r) => r.step.id === chosen)?.step);

// select says which steps are shown: of a pod, or of all with "*". A step stands above its parts, which end before it.
export function select(filter) {
  const all = filter.pod === "*";
  let steps = all ? [...store.pods.values()].flatMap((p) => p.steps) : of(filter.pod).steps;
  const total = steps.length;
  const words = filter.q.toLowerCase().split(/\s+/).filter(Boolean);
  const keep = (s) =>
    (!filter.errors || s.error) && (!filter.open || s.to === null) &&
    (!filter.side || (s.runtime ? "runtime" : "kubelet") === filter.side) && words.every((w) => s.text.includes(w));
  if (all) {
    list = steps.filter(keep).sort((a, b) => a.from - b.from || end(b) - end(a)).map((step) => ({ step, depth: 0 }));
  } else {
    list = tree(steps, filter.under).filter((r) => keep(r.step));
  }
  scale = all ? null : makeScale(list.map((r) => r.step));
  traces = all ? new Map(Object.entries(Object.groupBy(steps, (s) => s.trace)).map(([trace, of]) => [trace, makeScale(of, Infinity)])) : null;
  return { shown: list.length, total };
}

// tree puts each step below the one that it is part of; under is the one step that is shown with its parts, "" for all.
function tree(steps, under) {
  const known = new Map(steps.map((s) => [s.id, []]));
  const roots = [];
  for (const s of steps) (known.get(s.parent) ?? roots).push(s);
  const rows = [];
  const add = (s, depth) => {
    rows.push({ step: s, depth });
    for (const child of known.get(s.id)) add(child, depth + 1);
  };
  const top = under && steps.find((s) => s.id === under);
  (top ? [top] : roots).forEach((s) => add(s, 0));
  return rows;
}

// place is where a time of a step is drawn, 0..1: in the pod's time, or in that of its own trace.
const place = (step, t) => (scale ?? traces.get(step.trace)).x(t);

// makeScale maps times to 0..1. Time in which nothing happened for longer than a gap takes a fixed part.
function makeScale(steps, longGap = 250) {
  const spans = steps.map((s) => [s.from, Math.max(end(s), s.from + 0.05)]).sort((a, b) => a[0] - b[0]);
  if (!spans.length) return null;
  const parts = [];
  for (const [from, to] of spans) {
    const last = parts.at(-1);
    if (last && from - last.to < longGap) last.to = Math.max(last.to, to);
    else parts.push({ from, to });
  }
  const active = parts.reduce((sum, p) => sum + p.to - p.from, 0);
  const gap = parts.length > 1 ? Math.min(0.03, 0.4 / (parts.length - 1)) : 0;
  const share = 1 - gap * (parts.length - 1);
  let at = 0;
  for (const p of parts) {
    p.at = at;
    p.share = ((p.to - p.from) / active) * share;
    at += p.share + gap;
  }
  const x = (t) => {
    const p = parts.findLast((p) => p.from <= t) ?? parts[0];
    return p.at + Math.min(1, Math.max(0, (t - p.from) / (p.to - p.from))) * p.share;
  };
  return { x, parts, gap };
}

function drawAxis() {
  const axis = $("axis");
  axis.hidden = !scale;
  if (!scale) return;
  const marks = [], last = scale.parts.at(-1), zero = scale.parts[0].from;
  const room = 84 / Math.max(axis.clientWidth * 0.5, 84); // of a label
  let free = 0;
  for (const p of scale.parts) {
    if (p.at < free || p.at > 0 && p.at + 2 * room >= 1) continue;
    const mark = h("span", {}, p.at ? `+${took(p.from - zero)}` : "0");
    mark.style.left = `${p.at * 100}%`;
    marks.push(mark);
    free = p.at + room;
  }
  marks.push(h("span", { class: "last" }, `+${took(last.to - zero)}`));
  axis.replaceChildren(h("div", {}, marks));
}

export function draw() {
  const box = $("steps"), rows = $("rows");
  rows.style.height = `${list.length * rowHeight}px`;
  drawAxis();
  if (follow && $("steps").dataset.all) box.scrollTop = list.length * rowHeight;
  drawRows();
}

// drawRows makes the rows that can be seen, and a few around them.
export function drawRows() {
  const box = $("steps"), rows = $("rows");
  const first = Math.max(0, Math.floor(box.scrollTop / rowHeight) - 5);
  const last = Math.min(list.length, first + Math.ceil(box.clientHeight / rowHeight) + 10);
  const made = [];
  for (let i = first; i < last; i++) made.push(row(list[i], i));
  rows.replaceChildren(...made);
  if (chosen && list.some((r) => r.step.id === chosen)) box.setAttribute("aria-activedescendant", `s-${chosen}`);
  else box.removeAttribute("aria-activedescendant");
}

function row({ step, depth }, i) {
  const all = $("steps").dataset.all;
  const ms = end(step) - step.from;
  const side = step.runtime ? "runtime" : step.method ? "call" : "kubelet";
  const state = step.to === null ? "going on" : step.error ? "failed" : "done";
  const note = step.to === null ? step.notes?.at(-1)?.text : "";
  const bar = h("i", { class: `${side} ${step.error ? "failed" : ""} ${step.to === null ? "open" : ""}` });
  const from = place(step, step.from), to = place(step, end(step));
  bar.style.left = `${from * 100}%`;
  bar.style.width = `max(2px, ${(to - from) * 100}%)`;
  const label = h("span", { class: "label" }, step.error ? h("b", { class: "bad" }, "✕ ") : step.to === null ? h("b", { class: "busy" }, "… ") : null,
    step.method ? `${step.runtime ? "⇠ " : "⇢ "}${step.method}` : step.runtime && step.what ? step.name.replace(/^.* (?=\d+$)/, "") + ". " + step.what : step.name,
    step.container ? h("em", {}, step.container) : null, all ? h("em", {}, step.podName || "node") : null, note ? h("em", {}, note) : null);
  label.style.paddingLeft = `${Math.min(depth, 8) * 12 + 8}px`;
  const e = h("div", {
    class: "row", role: "option", id: `s-${step.id}`, "aria-selected": String(step.id === chosen), "aria-setsize": list.length, "aria-posinset": i + 1,
    "aria-label": `${step.method || step.name}, ${step.podName || "node"}${step.container ? ", " + step.container : ""}, ${side === "runtime" ? "runtime, " : ""}${took(ms)}, ${state}${step.error ? ": " + step.error : ""}`,
    title: [step.name, step.what, step.why, step.error].filter(Boolean).join("\n"),
  }, label, h("span", { class: "track" }, bar), h("span", { class: "took" }, took(ms)));
  e.style.top = `${i * rowHeight}px`;
  return e;
}

export function choose(id, scroll) {
  chosen = id;
  const at = list.findIndex((r) => r.step.id === id);
  if (at >= 0 && scroll) {
    follow = false;
    const box = $("steps"), top = at * rowHeight, room = 4 * rowHeight; // for what else may grow when a step is opened
    if (top - room < box.scrollTop) box.scrollTop = top - room;
    else if (top + room > box.scrollTop + box.clientHeight) box.scrollTop = top + room - box.clientHeight;
  }
  drawRows();
}

// move chooses another row: by, or to the first or last with ±Infinity.
export function move(by) {
  if (!list.length || $("steps").hidden) return;
  const at = list.findIndex((r) => r.step.id === chosen);
  const to = Math.max(0, Math.min(list.length - 1, at < 0 && by > 0 ? 0 : at + by));
  choose(list[to].step.id, true);
}

// listen has open called with the step that is clicked at.
export function listen(open) {
  const box = $("steps");
  box.addEventListener("scroll", () => {
    follow = box.scrollTop + box.clientHeight >= list.length * rowHeight - 2 * rowHeight;
    drawRows();
  }, { passive: true });
  box.addEventListener("click", (e) => {
    // By place, since the row may have been drawn anew between press and release.
    const i = Math.floor((e.clientY - $("rows").getBoundingClientRect().top) / rowHeight);
    if (!list[i]) return;
    choose(list[i].step.id);
    open(list[i].step);
  });
  new ResizeObserver(drawRows).observe(box);
}

export const anyOpen = () => list.some((r) => r.step.to === null);
