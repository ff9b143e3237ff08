// What stands beside the steps: the pods, what is said of one, the loop, workers, calls and status writes, and what is held.

import { $, clock, h, link, replace, took } from "./dom.js";
import { store } from "./store.js";

const nameOf = (uid) => store.state?.pods.find((p) => p.uid === uid)?.pod ?? uid;

export const phase = (p) => p.state.replace(/ .*/, "");

const restarts = (p) => `${p.restarts} restart${p.restarts === 1 ? "" : "s"}`;

// look is a pod's state in one word, for its colour.
export function look(p) {
  if (p.gone) return "gone";
  if (phase(p) === "Failed" || /BackOff|Err|Invalid|Unsupported|OOM/.test(p.state)) return "failed";
  if (phase(p) === "Succeeded") return "done";
  return phase(p) === "Ready" ? "ready" : "waiting";
}

export function pods(filter) {
  const { pods } = store.state;
  const phases = [...new Set([...pods.map(phase), ...(filter.phase ? [filter.phase] : [])])].sort();
  replace($("phase"), phases.join(), () => [h("option", { value: "" }, "all phases"), ...phases.map((p) => h("option", { value: p }, p))]);
  $("phase").value = filter.phase;
  const find = filter.find.toLowerCase();
  const shown = pods.filter((p) => (!find || p.pod.toLowerCase().includes(find)) && (!filter.phase || phase(p) === filter.phase));
  const entries = [["*", "All steps", pods.length === 1 ? "1 pod" : `${pods.length} pods`, "all"], ["", "The node", "", "all"],
    ...shown.map((p) => [p.uid, p.pod, `${p.state}${p.restarts ? `, ${restarts(p)}` : ""}`, look(p)])];
  const key = JSON.stringify([entries, filter.pod]);
  replace($("pod-list"), key, () => entries.map(([uid, name, text, state]) => h("li", {}, h("a", {
    href: link({ pod: uid || "node", step: "", view: "", under: "" }), "aria-current": uid === filter.pod ? "true" : null, "data-focus": uid || "node", title: name,
  }, h("i", { class: `dot ${state}`, "aria-hidden": "true" }), h("span", {}, name), h("small", {}, text)))));
}

// about says how the pod is.
export function about(filter) {
  const p = store.state.pods.find((p) => p.uid === filter.pod);
  const title = filter.pod === "*" ? "All steps" : filter.pod === "" ? "The node" : p?.pod ?? "A pod that is not kept any more";
  replace($("about"), JSON.stringify([title, p]), () => [
    h("h2", {}, title, p && h("span", { class: `chip ${look(p)}` }, p.state)),
    p && !p.gone && h("p", {}, p.answer || p.progress || `The pod is ${p.state}.`, p.remedy && ` ${p.remedy}`),
    p && !p.gone && h("p", { class: "small" }, `${p.ready} of ${p.of} containers are ready, ${restarts(p)}, from ${p.source}, ${p.uid}`),
  ].filter(Boolean));
}

// tables are the views besides the steps: title, columns, rows, and what is said if there are none.
const tables = {
  loop: () => ["What the sync loop reads from", ["channel", "#waiting", "#room for"],
    store.state.channels.map((c) => [c.name, c.waiting, c.capacity]), "The loop has told nothing yet."],
  workers: () => ["A goroutine for each pod, with its mailbox", ["pod", "phase", "now", "mailbox"],
    store.state.workers.map((w) => [podLink(w.pod), w.phase, doing(w.pod), w.mail ? "an update" : w.rings ? "a reason for another step" : "empty"]), "There are no workers."],
  calls: () => ["Calls to the container runtime, of the steps that are kept", ["method", "#in flight", "#calls", "#failed", "#median", "#most", "#last"],
    calls(), "Nothing was called yet."],
  writes: () => ["Statuses that the apiserver does not have yet", ["pod", "now", "#since"],
    Object.entries(store.state.writes ?? {}).map(([pod, since]) => [podLink(pod), doing(pod, "writeStatus"), clock(Date.parse(since), true)]), "Everything is written."],
};

// calls are how those of each method went, as the kubelet saw it.
function calls() {
  const all = [...store.pods.values()].flatMap((p) => p.steps).filter((s) => s.method && !s.runtime);
  return Object.entries(Object.groupBy(all, (s) => s.method)).sort().map(([method, of]) => {
    const ended = of.filter((s) => s.to !== null).sort((a, b) => a.to - b.to), last = ended.map((s) => s.to - s.from), sorted = last.toSorted((a, b) => a - b);
    const times = ended.length ? [sorted[sorted.length >> 1], sorted.at(-1), last.at(-1)].map(took) : ["", "", ""];
    return [method, of.length - ended.length, ended.length, ended.filter((s) => s.error).length, ...times];
  });
}

// doing is the step of a pod that goes on: the first, or the one of a name.
function doing(uid, name) {
  const open = store.pods.get(uid)?.steps.filter((s) => s.to === null) ?? [];
  return (name ? open.find((s) => s.name === name) : open.find((s) => s.name !== "writeStatus"))?.name ?? "waits";
}

const podLink = (uid) => h("a", { href: link({ pod: uid, view: "", step: "" }), "data-focus": uid }, nameOf(uid));

export function table(view) {
  const [title, columns, rows, none] = tables[view]();
  const key = JSON.stringify([view, rows.map((r) => r.map((c) => c.textContent ?? c))]);
  replace($("table"), key, () => [
    h("h2", {}, title),
    rows.length === 0 ? h("p", {}, none) : h("div", { class: "scroll", tabindex: 0, role: "region", "aria-label": title, "data-focus": "all" }, h("table", {},
      h("thead", {}, h("tr", {}, columns.map((c) => h("th", { scope: "col", class: c[0] === "#" ? "n" : null }, c.replace("#", ""))))),
      h("tbody", {}, rows.map((r) => h("tr", {}, r.map((c, i) => h("td", { class: columns[i][0] === "#" ? "n" : null }, c)))))))]);
}

export function modes() {
  const { modes } = store.state;
  $("modes").hidden = modes.length === 0;
  replace($("modes"), modes.join(), () => h("p", {}, "This node does not behave as usual: it runs with ", modes.map((m) => [h("code", {}, m), " "])));
}

// held shows the steps that wait, with the request, and lets them go.
export function held() {
  const { held } = store.state;
  $("held").hidden = held.length === 0;
  const have = new Set(held.map((one) => String(one.id)));
  for (const e of [...$("held").children].filter((e) => !have.has(e.dataset.id))) {
    if (e.contains(document.activeElement)) (e.nextElementSibling?.querySelector("button") ?? $("steps")).focus();
    e.remove();
  }
  for (const one of held) {
    // One that is shown already stays: somebody may be writing in it.
    if (![...$("held").children].some((e) => e.dataset.id === String(one.id))) $("held").append(card(one));
  }
}

// In the text that is edited each value is a line: one that has lines itself has them as \n, and a backslash as \\.
const asText = (values) => values.map((v) => v.replaceAll("\\", "\\\\").replaceAll("\n", "\\n")).join("\n");
const asValues = (text) => (text === "" ? [] : text.replace(/\n$/, "").split("\n")).map((l) => l.replace(/\\(.)/g, (_, c) => (c === "n" ? "\n" : c)));

function card(one) {
  const area = (name, values) => one.edit && h("label", {}, `${name}, one a line`, h("textarea", { name, rows: Math.min(8, Math.max(2, values.length)), spellcheck: "false" }, asText(values)));
  const problem = h("p", { class: "bad", role: "alert" });
  const send = async (event) => {
    event.preventDefault();
    const form = event.target;
    if (form.dataset.sent) return;
    form.dataset.sent = "1";
    const changed = Object.keys(one.edit ?? {}).filter((name) => form.elements[name].value !== asText(one.edit[name]));
    const edit = changed.length ? Object.fromEntries(changed.map((name) => [name, asValues(form.elements[name].value)])) : null;
    const response = await fetch("/release", { method: "POST", body: JSON.stringify({ id: one.id, edit }) }).catch((e) => ({ ok: false, text: () => e.message }));
    problem.textContent = response.ok ? "" : await response.text();
    if (!response.ok) delete form.dataset.sent;
  };
  return h("form", { "data-id": one.id, onsubmit: send },
    h("p", {}, h("strong", {}, one.name), " is held: ", one.podName || "the node", one.container ? `, ${one.container}` : "", ` since ${clock(Date.parse(one.start))} `,
      h("button", { class: "primary" }, "Release")),
    area("command", one.edit?.command ?? []), area("args", one.edit?.args ?? []), area("env", one.edit?.env ?? []), problem,
    one.request && h("details", {}, h("summary", {}, "The request"), h("pre", { tabindex: 0 }, one.request)));
}

export function live() {
  replace($("live"), store.live, () => store.live); // what is set is said aloud, so only what is new
  $("live").className = store.live === "live" ? "ok" : store.live === "connecting" ? "" : "bad";
  if (store.state) replace($("node"), store.state.node, () => h("span", { title: store.state.version }, store.state.node));
}

