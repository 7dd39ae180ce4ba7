// Elements from words: h("p", {class: "dim"}, "text", other elements).

export function h(tag, properties = {}, ...children) {
  return fill(document.createElement(tag), properties, children);
}

export function svg(tag, properties = {}, ...children) {
  return fill(document.createElementNS("http://www.w3.org/2000/svg", tag), properties, children);
}

function fill(element, properties, children) {
  for (const [name, value] of Object.entries(properties)) {
    if (name.startsWith("on")) element.addEventListener(name.slice(2), value);
    else if (value === true) element.setAttribute(name, "");
    else if (value !== false && value !== null && value !== undefined) element.setAttribute(name, value);
  }
  element.append(...children.flat(Infinity).filter((child) => child !== null && child !== undefined));
  return element;
}

// A thumb, up or down, as a drawing: not every machine has a font with one.
export function thumb(up) {
  const hand = "M2 10h4v11H2zM8 10l4-8c2 0 3 1 3 3l-1 4h6c1.5 0 2.2 1 2 2l-1.5 8c-.3 1.3-1 2-2 2H8z";
  const turned = up ? null : "rotate(180 12 12)";
  return svg("svg", { viewBox: "0 0 24 24", class: "sign", "aria-hidden": "true" }, svg("path", { d: hand, transform: turned }));
}

export const by = (id) => document.getElementById(id);

export const percent = (share) => `${Math.round(100 * share)}\u00a0%`;

export function ago(seconds) {
  const gone = Date.now() / 1000 - seconds;
  if (gone < 90) return "just now";
  if (gone < 5400) return `${Math.round(gone / 60)} minutes ago`;
  if (gone < 129600) return `${Math.round(gone / 3600)} hours ago`;
  return new Date(1000 * seconds).toLocaleDateString();
}

export const count = (n, one, many = `${one}s`) => `${n} ${n === 1 ? one : many}`;

// Runs what a button asks for, and says beside it what went wrong.
export function action(label, work, properties = {}) {
  const button = h("button", { type: "button", ...properties, onclick: run }, label);
  async function run() {
    button.disabled = true;
    button.parentElement.querySelector(".failed")?.remove();
    try {
      await work(button);
    } catch (error) {
      button.after(h("span", { class: "failed", role: "alert" }, error.message));
    } finally {
      button.disabled = false;
    }
  }
  return button;
}
