// Versions: which serves, what the gate measured, two or three of them side by side.

import { get, post, stream } from "/page/api.js";
import { action, ago, by, h } from "/page/dom.js";

const BASE = "policy-base";
const MEASURES = [
  ["facts", "facts right", 0],
  ["ended", "answers that end", 0],
  ["tokens", "tokens an answer", 1],
  ["kl", "KL to the base", 3],
];
let admin = false;
let shown = "";
let picked = false; // by a person; until then it is the model as it was, the live version and the newest

export function start() {
  by("which").addEventListener("change", () => (picked = true));
  by("compare").addEventListener("submit", (event) => {
    event.preventDefault();
    compare(by("prompt").value.trim());
  });
}

export async function refresh(may) {
  admin = may;
  const { data: found, notes } = await get("/v1/versions");
  const now = JSON.stringify([admin, found, notes]);
  if (now === shown) return;
  shown = now;
  const live = found.find((version) => version.live);
  const rows = found.slice(0, 12).map(row);
  const none = live ? null : h("p", { class: "dim" }, "The model serves as it was.");
  const back = action("Roll back", () => move("rollback"), { id: "back" });
  by("version-list").replaceChildren(
    ...[none, rows.length ? table(rows) : null].filter(Boolean),
    h("div", { class: "row" }, ...(admin && live ? [back, h("span", { class: "dim" }, "to the version before the live one")] : [])),
    ...(admin && rows.length ? [noteField()] : []),
    ...(notes.length ? [h("ul", { class: "notes", "aria-label": "Notes, newest first" }, notes.map(written))] : []),
  );
  choices(found, live);
}

async function move(way) {
  await post(`/v1/versions/${way}`, { note: by("note")?.value.trim() ?? "" });
  if (by("note")) by("note").value = "";
  await refresh(admin);
}

// What is typed stays while the list is drawn again.
function noteField() {
  const field = h("input", { id: "note", class: "note-text", maxlength: 500, autocomplete: "off" });
  field.value = by("note")?.value ?? "";
  const why = h("label", { for: "note" }, "A note for the next promotion or roll-back");
  return h("div", { class: "row" }, why, field);
}

function written(note) {
  const who = note.by ? ` (${note.by})` : "";
  const what = note.version ?? "the model as it was";
  return h("li", {}, `${what}: `, h("q", { dir: "auto" }, note.text), h("span", { class: "dim" }, `${who} ${ago(note.created)}`));
}

function table(rows) {
  const names = ["Version", "State", ...MEASURES.map(([, name]) => name), h("span", { class: "hidden" }, "What you can do")];
  const head = h("tr", {}, names.map((name) => h("th", { scope: "col" }, name)));
  const label = "Versions, newest first";
  return h("div", { class: "scroll", tabindex: "0", role: "region", "aria-label": label }, h("table", {}, h("thead", {}, head), h("tbody", {}, rows)));
}

function row(version) {
  const state = version.live ? "live" : version.state;
  const measured = MEASURES.map(([name, , digits]) => {
    const value = version.gate.candidate?.[name];
    return h("td", { class: "n" }, value === undefined ? "–" : value.toFixed(digits));
  });
  const promote = action("Promote", () => move(`${version.number}/promote`), {
    "aria-label": `Promote ${version.name}`,
  });
  const may = admin && !version.live && version.state !== "candidate";
  return h(
    "tr",
    { class: version.live ? "live" : "" },
    h("th", { scope: "row" }, version.name, h("br"), h("span", { class: "dim" }, ago(version.created))),
    h("td", { class: state === "rejected" ? "bad" : state === "live" ? "good" : "" }, state, version.reason ? h("div", { class: "dim why" }, version.reason) : null),
    measured,
    h("td", {}, may ? promote : ""),
  );
}

function choices(found, live) {
  const before = new Set([...document.querySelectorAll("[name=version]:checked")].map((one) => one.value));
  const names = [[BASE, "the model as it was"]];
  for (const version of found.slice(0, 6)) names.push([version.name, version.live ? `${version.name} (live)` : version.name]);
  const boxes = names.map(([name, words], i) => {
    const chosen = picked ? before.has(name) : name === BASE || name === live?.name || i === 1;
    const box = h("input", { type: "checkbox", name: "version", value: name });
    box.checked = chosen;
    return h("label", {}, box, ` ${words}`);
  });
  by("which").replaceChildren(by("which").querySelector("legend"), ...boxes);
}

async function compare(prompt) {
  const chosen = [...document.querySelectorAll("[name=version]:checked")].map((one) => one.value);
  if (!prompt || !chosen.length) return;
  const columns = chosen.map((name) => {
    const text = h("div", { class: "text", dir: "auto" });
    const column = h("div", { class: "side", "aria-busy": "true" }, h("h4", {}, name === BASE ? "the model as it was" : name), text);
    return { name, text, column };
  });
  by("sides").replaceChildren(...columns.map((one) => one.column));
  await Promise.all(columns.map((one) => ask(prompt, one)));
}

async function ask(prompt, { name, text, column }) {
  const request = { model: name, messages: [{ role: "user", content: prompt }], stream: true, turn_type: "side", seed: 0 };
  try {
    await stream("/v1/chat/completions", request, (chunk) => {
      if (chunk.error) throw new Error(chunk.error.message);
      text.append(chunk.choices[0]?.delta?.content ?? "");
    });
  } catch (error) {
    column.append(h("p", { class: "failed", role: "alert" }, error.message));
  } finally {
    column.removeAttribute("aria-busy");
  }
}
