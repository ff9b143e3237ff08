// What the kubelet has told: steps, as many as it keeps, and the state.

const maxOfPod = 200; // as the recorder

export const store = {
  pods: new Map(), // UID ("" for the node) -> {steps: [by start], byID}
  state: null,
  skew: 0, // the kubelet's clock minus ours, in ms
  live: "connecting",
};

const listeners = [];
export const onChange = (f) => listeners.push(f);
const changed = () => listeners.forEach((f) => f());

export const now = () => (still || Date.now()) + store.skew;

export function of(pod) {
  let p = store.pods.get(pod);
  if (!p) store.pods.set(pod, (p = { steps: [], byID: new Map() }));
  return p;
}

// find returns a step of any pod.
export function find(id) {
  for (const p of store.pods.values()) if (p.byID.has(id)) return p.byID.get(id);
}

function take(raw) {
  const step = { ...raw, pod: raw.pod ?? "", parent: /^0*$/.test(raw.parent) ? null : raw.parent, from: ms(raw.start), to: raw.end ? ms(raw.end) : null };
  step.text = [step.name, step.what, step.podName, step.container, step.why, step.error, step.function].join(" ").toLowerCase();
  const pod = of(step.pod);
  const before = pod.byID.get(step.id);
  pod.byID.set(step.id, step);
  if (before) {
    pod.steps[pod.steps.indexOf(before)] = step;
    return;
  }
  let at = pod.steps.length;
  while (at > 0 && pod.steps[at - 1].from > step.from) at--;
  pod.steps.splice(at, 0, step);
  if (pod.steps.length > maxOfPod) pod.byID.delete(pod.steps.shift().id);
}

// ms is a time in milliseconds, with its fraction.
const ms = (text) => Date.parse(text) + Number("0." + (/\.\d{3}(\d+)/.exec(text)?.[1] ?? "0"));

export const end = (step) => step.to ?? now();

let source = null, still = 0; // since when the page stands still

// connect follows the stream, which begins with all that the kubelet keeps. A page that cannot be seen does not: all of a browser's
// tabs share six connections.
export function connect() {
  source?.close();
  if (document.hidden) return;
  source = new EventSource("/events");
  const live = (text) => { if (store.live !== text) { store.live = text; changed(); } };
  source.addEventListener("hello", (e) => { store.skew = Date.parse(JSON.parse(e.data)) - Date.now(); live("live"); });
  source.addEventListener("steps", (e) => {
    if (still) return;
    JSON.parse(e.data).forEach(take);
    changed();
  });
  source.addEventListener("state", (e) => {
    const state = JSON.parse(e.data);
    for (const key of ["pods", "channels", "workers", "held", "modes"]) state[key] ??= [];
    // While the page stands still, what is held is shown all the same: it waits for somebody.
    store.state = still && store.state ? { ...store.state, held: state.held } : state;
    const known = new Set(store.state.pods.map((p) => p.uid));
    for (const uid of store.pods.keys()) if (uid && !known.has(uid)) store.pods.delete(uid);
    changed();
  });
  source.onerror = () => live(source.readyState === EventSource.CLOSED ? "ended: open the link of the kubelet's last start" : "lost, trying again");
}

document.addEventListener("visibilitychange", connect);

export const paused = () => still > 0;

// pause lets the page stand still, or go on with what it missed.
export function pause(on) {
  still = on ? Date.now() : 0;
  if (!on) connect();
  changed();
}
