// The chosen step: why, how long, what it changed, and where in the source.

import { $, clock, h, link, replace, took } from "./dom.js";
import { end, of } from "./store.js";

let asked = 0;

export async function open(step, close) {
  const mine = ++asked;
  const pane = $("detail");
  const same = pane.dataset.step === step.id;
  pane.hidden = false;
  pane.dataset.step = step.id;
  if (!same) pane.scrollTop = 0;
  const answer = await fetch(`/step?${new URLSearchParams({ pod: step.pod, id: step.id })}`)
    .then(async (response) => (response.ok ? response.json() : { step, gone: (await response.text()).trim() }))
    .catch(() => ({ step, gone: "the kubelet does not answer" }));
  if (mine !== asked) return;
  replace(pane, JSON.stringify([step.id, took(end(step) - step.from), answer]), () => show(step, answer, close));
}

export function close() {
  asked++;
  $("detail").hidden = true;
  $("detail").dataset.step = $("detail").dataset.key = "";
}

function show(step, { step: full, code, gone }, close) {
  const parent = step.parent && of(step.pod).byID.get(step.parent);
  const facts = [
    ["What", full.what], ["Why", full.why], ["Error", full.error && h("span", { class: "bad" }, full.error)], ["Pod", step.podName || "the node"], ["Container", full.container],
    ["Took", `${took(end(step) - step.from)}${step.to === null ? " so far" : ""}`], ["Began", clock(step.from, true)],
    ["Part of", parent && h("a", { href: link({ step: parent.id }), "data-focus": "parent" }, parent.method || parent.name)],
    ["Time", h("a", { href: link({ under: step.id, pod: step.pod || "node" }), "data-focus": "under" }, "only this step and its parts")],
    ["Side", step.runtime ? "the runtime, behind the socket" : step.method ? "the kubelet, a call to the runtime" : "the kubelet"],
    ["Function", code?.function && short(code.function)], ["File", code?.file && `${code.file.replace(/^minikubelet\//, "")}${code.line ? ":" + code.line : ""}`],
    ["Upstream", code?.upstream], ...(full.attributes ?? []).map((a) => [a.key, a.value]),
  ].filter(([, value]) => value);
  return [
    h("div", { class: "bar" }, h("h2", {}, step.method || step.name), h("button", { "aria-label": "Close the step", onclick: close, "data-focus": "close" }, "✕")),
    gone && h("p", { class: "bad" }, gone),
    h("dl", {}, facts.map(([key, value]) => h("div", {}, h("dt", {}, key), h("dd", {}, value)))),
    full.notes?.length ? [h("h3", {}, "Meanwhile"), h("ol", { class: "notes" }, full.notes.map((n) => h("li", {}, h("time", {}, clock(Date.parse(n.at), true)), " ", n.text)))] : null,
    change(full.before, full.after),
    code?.text && [h("h3", {}, "Source"), source(code)],
  ].flat(Infinity).filter(Boolean);
}

const short = (name) => name.replace(/^.*\//, "").replace(/(\.func\d+|\.\d+)+$/, "");

// change shows what a step changed: the lines that only one side has are marked.
function change(before, after) {
  if (!after && !before) return null;
  const old = new Set((before ?? "").split("\n")), young = new Set((after ?? "").split("\n"));
  const gone = (before ?? "").split("\n").filter((l) => l.trim() && !young.has(l)).map((l) => h("del", {}, `- ${l}\n`));
  const lines = (after ?? "").split("\n").map((l) => (before && l.trim() && !old.has(l) ? h("ins", {}, `+ ${l}\n`) : `  ${l}\n`));
  return [h("h3", {}, before ? "Changed" : "Made"), h("pre", { tabindex: 0, "data-focus": "change" }, gone, lines)];
}

function source(code) {
  return h("pre", { class: "code", tabindex: 0, "data-focus": "source" }, code.text.split("\n").map((text, i) => {
    const number = code.first + i;
    const comment = /^\s*\/\//.test(text);
    return h(number === code.line ? "mark" : "span", { class: comment ? "comment" : null }, h("b", {}, String(number).padStart(4)), ` ${text}\n`);
  }));
}
