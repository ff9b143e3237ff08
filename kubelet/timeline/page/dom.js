// Small helpers. Text from pods and the runtime reaches the page as text nodes only.

export const $ = (id) => document.getElementById(id);

// h makes an element. Properties beginning with "on" are listeners, others attributes; null leaves one out.
export function h(tag, props, ...children) {
  const e = document.createElement(tag);
  for (const [key, value] of Object.entries(props ?? {})) {
    if (value === null || value === undefined || value === false) continue;
    if (key.startsWith("on")) e.addEventListener(key.slice(2), value);
    else e.setAttribute(key, value === true ? "" : value);
  }
  e.append(...children.flat(Infinity).filter((c) => c !== null && c !== undefined && c !== false));
  return e;
}

// took is a duration in milliseconds as text.
export function took(ms) {
  if (ms < 1) return `${Math.max(1, Math.round(ms * 1000))} µs`;
  if (ms < 1000) return `${ms < 10 ? ms.toFixed(1) : Math.round(ms)} ms`;
  if (ms < 60000) return `${(ms / 1000).toFixed(ms < 10000 ? 2 : 1)} s`;
  const s = Math.round(ms / 1000), m = Math.floor(s / 60);
  const two = (a, b) => (Number.parseInt(b, 10) ? `${a} ${b}` : a);
  return s < 3600 ? two(`${m} min`, `${s % 60} s`) : two(`${Math.floor(m / 60)} h`, `${m % 60} min`);
}

export const clock = (ms, fine) => new Date(ms).toLocaleTimeString("en-GB", fine ? { hour: "2-digit", minute: "2-digit", second: "2-digit", fractionalSecondDigits: 3 } : {});

// replace puts children into an element unless what it shows is the same: a key says what. Children with data-focus keep the focus
// and how far they are scrolled; if the one with the focus is gone, the first has it.
export function replace(e, key, make) {
  if (e.dataset.key === key) return;
  e.dataset.key = key;
  const before = [...e.querySelectorAll("[data-focus]")].map((x) => [x.dataset.focus, x.scrollTop, x === document.activeElement]).filter(([, top, focused]) => top || focused);
  e.replaceChildren(...[make()].flat());
  for (const [name, top, focused] of before) {
    const now = e.querySelector(`[data-focus="${CSS.escape(name)}"]`);
    if (now) now.scrollTop = top;
    if (focused) (now ?? e.querySelector("[data-focus]"))?.focus({ preventScroll: true });
  }
}

// link is the permalink with other values.
export function link(values) {
  const at = new URLSearchParams(location.hash.slice(1));
  for (const [key, value] of Object.entries(values)) value ? at.set(key, value) : at.delete(key);
  return `#${at}`;
}
