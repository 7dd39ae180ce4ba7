// Turns, newest first, a page at a time; opened: all of one, and a verdict that overrules the judge's.

import { get, text } from "/page/api.js";
import { action, ago, by, h, thumb } from "/page/dom.js";
import { tokens } from "/page/tokens.js";
import { verdict } from "/page/verdict.js";

const PAGE = 10;
const MOST = 50; // of those that are shown, so many are looked at again whenever something changed
const rows = new Map();
let filter = "";
let next = null;

export function start() {
  for (const button of document.querySelectorAll("[data-filter]")) {
    button.addEventListener("click", () => {
      filter = button.dataset.filter;
      for (const one of document.querySelectorAll("[data-filter]")) one.setAttribute("aria-pressed", one === button);
      clear();
      load();
    });
  }
  const older = action("Older turns", () => load(next), { id: "older", hidden: true });
  by("older").replaceWith(older);
  by("lines").append(action("Your verdicts as a file for judge-train", save));
}

// The newest; turns that are shown already are brought up to date, an opened one is left open.
export async function refresh() {
  await load();
  for (const row of rows.values()) row.age();
}

async function save() {
  const url = URL.createObjectURL(new Blob([await text("/v1/judge-lines")], { type: "application/jsonl" }));
  h("a", { href: url, download: "judge-lines.jsonl" }).click();
  URL.revokeObjectURL(url);
}

function clear() {
  rows.clear();
  by("list").replaceChildren();
}

async function load(before = null) {
  const wanted = filter;
  const count = before ? PAGE : Math.min(MOST, Math.max(PAGE, rows.size));
  const found = await get(`/v1/turns?limit=${count}&${filter}${before ? `&before=${encodeURIComponent(before)}` : ""}`);
  if (wanted !== filter) return;
  if (!before && !found.data.some((turn) => rows.has(turn.id))) clear(); // so many are new that there is a gap
  if (before || rows.size <= count) next = found.next;
  let last = null;
  for (const turn of found.data) {
    const known = rows.get(turn.id);
    const row = known ?? makeRow(turn);
    row.update(turn);
    if (!known) {
      rows.set(turn.id, row);
      if (before) by("list").append(row.element);
      else if (last) last.after(row.element);
      else by("list").prepend(row.element);
    }
    last = row.element;
  }
  by("no-turns").hidden = rows.size > 0;
  by("older").hidden = next === null;
}

function makeRow(turn) {
  const badge = h("span", { class: "badge" });
  const when = h("span", { class: "dim" });
  const request = h("span", { class: "cut" }, turn.request || "(nothing)");
  const answer = h("span", { class: "cut dim" }, turn.answer || "(an empty answer)");
  const reaction = h("span", { class: "cut" });
  const summary = h("summary", {}, badge, h("span", { class: "cells" }, request, answer, reaction), when);
  const inside = h("div", { class: "inside" });
  const element = h("details", { class: "turn", "data-id": turn.id, ontoggle: open }, summary, inside);
  return { element, update, age };

  function age() {
    when.textContent = `${ago(turn.created)} · ${turn.version ?? "the model as it was"}`;
  }

  function update(now) {
    mark(badge, now);
    age();
    reaction.textContent = now.reaction ? `↳ ${now.reaction}` : "";
  }

  async function open() {
    if (!element.open || inside.childElementCount) return;
    try {
      const whole = await get(`/v1/turns/${encodeURIComponent(turn.id)}`);
      inside.replaceChildren(...details(whole, (kept) => mark(badge, { ...whole, reward: kept.score, feedback: kept })));
    } catch (error) {
      inside.replaceChildren(h("p", { class: "failed", role: "alert" }, error.message));
    }
  }
}

function mark(badge, turn) {
  const reward = turn.reward;
  const [sign, word, kind] =
    reward === null ? ["·", "no verdict yet", ""] : reward > 0 ? [thumb(true), "liked", "good"] : reward < 0 ? [thumb(false), "disliked", "bad"] : ["–", "neutral", ""];
  badge.className = `badge ${kind}`;
  const who = turn.feedback ? "by a person" : "by the judge";
  const label = reward === null ? word : `${word}, ${who}`;
  badge.replaceChildren(h("span", { "aria-hidden": "true" }, sign), h("span", { class: "hidden" }, label));
  badge.title = label;
}

function details(turn, changed) {
  const votes = turn.votes.map((vote) => {
    const word = vote.label === null ? "no vote" : vote.label > 0 ? "good" : vote.label < 0 ? "bad" : "neutral";
    const sure = vote.confidence === null ? "" : ` (${Math.round(100 * vote.confidence)} % sure)`;
    return `${word}${sure}${vote.reason ? `: ${vote.reason}` : ""}`;
  });
  const learned = turn.learned_in.length ? `It was part of update ${turn.learned_in.join(", ")}.` : "";
  return [
    part("Asked", turn.request),
    h("h3", {}, "Answered"),
    tokens(turn),
    turn.reaction ? part(turn.reacted === "tool" ? "The tool returned" : "Then was said", turn.reaction) : null,
    h("p", { class: "dim" }, votes.length ? `The judge's votes: ${votes.join("; ")}.` : "The judge has not voted.", ` ${learned}`),
    h("h3", {}, "Your verdict"),
    verdict(turn.id, turn.feedback, changed),
  ].filter(Boolean);
}

function part(title, text) {
  return h("div", {}, h("h3", {}, title), h("div", { class: "text", dir: "auto" }, text));
}
