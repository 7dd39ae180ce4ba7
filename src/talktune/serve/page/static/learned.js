// What it learned: one line that anybody understands, and the picture behind it.

import { by, count, h, percent } from "/page/dom.js";
import { plot } from "/page/plot.js";

export function show(found) {
  const line = sentence(found);
  if (by("line").textContent !== line) by("line").textContent = line;
  const parts = [];
  if (found.points.length > 1) {
    const what = `The share of liked answers went from ${percent(found.before)} to ${percent(found.now)}.`;
    parts.push(plot(found.points, found.marks, what));
    const caption = `Each point: the last ${found.window} answers that were liked or disliked, with the 95 % band. v: a version went live, ✗: one was rejected.`;
    parts.push(h("p", { class: "dim" }, caption));
  }
  if (found.trust !== null) {
    parts.push(h("p", {}, `Trust in the preference model: ${percent(found.trust)}.`));
  }
  const rejected = found.marks.filter((mark) => mark.state === "rejected").slice(-3);
  parts.push(...rejected.map((mark) => h("p", { class: "note" }, `${mark.name} was rejected: ${mark.reason}.`)));
  by("plot").replaceChildren(...parts);
}

function sentence(found) {
  const next = update(found.next_update);
  if (!found.reactions) return `No reaction heard yet. ${next}`;
  const versions = count(found.versions.published, "version");
  const rejected = found.versions.rejected ? ` and ${found.versions.rejected} rejected` : "";
  return `${count(found.reactions, "reaction")} heard, ${versions}${rejected}. ${liked(found)}${next}`;
}

function liked(found) {
  const heard = found.liked + found.disliked;
  if (heard < 4) return heard ? `Answers liked: ${found.liked} of ${heard}. ` : "";
  return `Answers liked: ${percent(found.before)} → ${percent(found.now)} of the last ${found.window}. `;
}

function update(next) {
  if (next.stopped) return `Learning is stopped: ${next.stopped}. Promote a version or roll back to let it go on.`;
  const held = next.held_out ? `; ${next.held_out} ${next.held_out === 1 ? "is" : "are"} held out to test it` : "";
  if (!next.missing) return `There is enough for the next update${held}.`;
  return `Next update in ${count(next.missing, "reaction")}${held}.`;
}
