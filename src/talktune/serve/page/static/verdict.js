// A person's own word on an answer: thumbs, and what it should have said. It overrules the judge.

import { post } from "/page/api.js";
import { action, h, thumb } from "/page/dom.js";

// `given` is {score, better} or null; `changed` hears what the server keeps.
export function verdict(id, given, changed = () => {}) {
  const thumbs = [
    [1, "Good answer"],
    [-1, "Bad answer"],
  ].map(([score, label]) =>
    action(thumb(score > 0), () => send({ score }), { class: "thumb", "aria-label": label, title: label, "data-score": score }),
  );
  const words = h("textarea", { rows: 3, "aria-label": "What it should have said" });
  words.value = given?.better ?? "";
  const said = h("span", { class: "dim", role: "status" });
  const better = h(
    "details",
    { class: "better" },
    h("summary", {}, "What should it have said?"),
    words,
    h("div", { class: "row" }, action("Keep", keep), said),
  );
  show(given);
  return h("div", { class: "verdict" }, h("div", { class: "row" }, thumbs), better);

  async function keep() {
    const wanted = words.value.trim();
    if (wanted || given?.better) await send({ better: wanted }, "Kept.");
  }

  async function send(body, note = "") {
    const kept = await post("/v1/feedback", { completion_id: id, ...body });
    show(kept);
    said.textContent = note;
    changed(kept);
  }

  function show(kept) {
    for (const button of thumbs) {
      const pressed = kept !== null && Math.sign(kept.score) === Number(button.dataset.score);
      button.setAttribute("aria-pressed", pressed);
    }
  }
}
