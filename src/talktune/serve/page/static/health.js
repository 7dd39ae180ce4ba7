// Health: what works, what waits, and why something does not, in words.

import { get } from "/page/api.js";
import { ago, by, count, h } from "/page/dom.js";

const SILENT = 600;
const WORDS = { ok: "at work", busy: "at work", waiting: "waits", silent: "not seen for a while" };

export async function refresh(learning) {
  const health = await get("/health");
  const engine = health.engine.state === "ok" || health.engine.state === "ready";
  const lines = [item(engine, "Engine", engine ? "answers" : health.engine.state)];
  for (const role of ["judge", "learner"]) lines.push(roleLine(role, health.roles[role], learning.roles[role]));
  if (health.version) lines.push(item(false, "Version", health.version));
  const next = learning.next_update;
  const waits = `${count(learning.waiting_for_judge, "turn")} for the judge, ${next.waiting} for the next update`;
  lines.push(item(true, "Waiting", waits));
  lines.push(item(!next.stopped, "Brakes", next.stopped ? `learning is stopped: ${next.stopped}` : "none is on"));
  const known = learning.brakes.filter((brake) => brake.value !== null && brake.value !== undefined);
  by("state").replaceChildren(h("ul", { class: "health" }, lines), ...(known.length ? [brakes(known)] : []));
}

function roleLine(name, here, told) {
  const title = name[0].toUpperCase() + name.slice(1);
  if (!here && !told) return item(null, title, "none is at work on this store");
  const silent = !here && Date.now() / 1000 - told.seen > SILENT;
  const state = here?.state ?? (silent ? "silent" : told.trouble ? "waiting" : "ok");
  const why = here ? here.reason : told.trouble;
  const seen = here ? "" : `, seen ${ago(told.seen)}`;
  return item(!silent, title, `${WORDS[state] ?? state}${why ? `: ${why}` : ""}${seen}`);
}

function item(good, title, words) {
  const kind = good === null ? "" : good ? "good" : "bad";
  const sign = good === null ? "–" : good ? "✓" : "✗";
  return h("li", {}, h("span", { class: kind, "aria-hidden": "true" }, `${sign} `), h("b", {}, title), ` ${words}`);
}

function brakes(known) {
  const rows = known.map((brake) => {
    const low = brake.least === null ? "" : `at least ${brake.least}`;
    const high = brake.most === null ? "" : `at most ${brake.most}`;
    const limits = [low, high].filter(Boolean).join(", ");
    return h("tr", {}, h("th", { scope: "row" }, brake.what), h("td", { class: "n" }, brake.value.toFixed(2)), h("td", {}, limits));
  });
  const head = ["Last update", "value", "wanted"].map((name) => h("th", { scope: "col" }, name));
  return h("table", {}, h("thead", {}, h("tr", {}, head)), h("tbody", {}, rows));
}
