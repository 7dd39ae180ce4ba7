// An answer, its tokens shaded: by their chance when they were sampled, by their advantage in the update that learned
// from them, or by how much likelier they are now than to the model as it was.

import { get } from "/page/api.js";
import { h } from "/page/dom.js";

const CHANCE = [0.8, 0.4, 0.15, 0.03]; // a token below the last of these was a surprise
const ADVANTAGE = [0.1, 0.5, 1, 1.5];
const NATS = [0.05, 0.25, 0.7, 1.5];
let made = 0;

export function tokens(turn) {
  if (!turn.tokens.length || turn.tokens.some((token) => token.text === null)) {
    return h("div", { class: "text", dir: "auto" }, turn.answer);
  }
  const spans = turn.tokens.map((token) => h("span", {}, token.text));
  const legend = h("p", { class: "dim legend", role: "status" });
  const name = `shade-${(made += 1)}`;
  let last = null;
  const ways = [
    ["chance", "chance when it was sampled", byChance, turn.tokens.every((token) => token.logprob !== null)],
    ["advantage", "advantage", byAdvantage, turn.advantage !== null],
    ["change", "change since the model as it was", byChange, true],
  ];
  const choices = ways.map(([value, words, show, there]) => {
    const choice = h("input", { type: "radio", name, value, disabled: !there, onchange: () => run(show) });
    return h("label", {}, choice, ` ${words}`);
  });
  const first = choices.map((label) => label.firstChild).find((choice) => !choice.disabled && choice.value === "chance");
  if (first) {
    first.checked = true;
    byChance();
  } else {
    legend.replaceChildren("Choose by what the tokens are shaded.");
  }
  const ask = h("legend", { class: "hidden" }, "By what the tokens are shaded");
  return h("div", {}, h("div", { class: "text tokens", dir: "auto" }, spans), h("fieldset", { class: "dim" }, ask, choices), legend);

  // What is read takes a while, and another choice may have been made by then.
  function chosen(show) {
    return last === show;
  }

  async function run(show) {
    last = show;
    try {
      await show();
    } catch (error) {
      if (chosen(show)) legend.replaceChildren(h("span", { class: "failed", role: "alert" }, error.message));
    }
  }

  function shade(i, kind, title) {
    spans[i].className = kind;
    spans[i].title = title;
  }

  function byChance() {
    turn.tokens.forEach(({ logprob }, i) => {
      const chance = Math.exp(logprob);
      shade(i, `t${CHANCE.filter((least) => chance <= least).length}`, `chance ${percent(logprob)}`);
    });
    legend.replaceChildren("Each token by its chance when it was sampled: ", ...scale("t", "likely", "a surprise"));
  }

  function byAdvantage() {
    const value = turn.advantage;
    turn.tokens.forEach((_, i) => shade(i, level(value, ADVANTAGE), `advantage ${signed(value)}`));
    const what = value > 0 ? "made likelier" : value < 0 ? "made less likely" : "left as they were";
    const update = turn.learned_in.at(-1);
    legend.replaceChildren(
      `The answer's advantage in update ${update} is ${signed(value)}; all of its tokens share it and were ${what}. `,
      ...bothWays("less likely", "likelier"),
    );
  }

  async function byChange() {
    legend.replaceChildren("The model reads the answer again …");
    const found = await get(`/v1/turns/${encodeURIComponent(turn.id)}/change`);
    if (!chosen(byChange)) return;
    const gains = found.tokens.map(({ base, now }) => now - base);
    spans.forEach((_, i) => shade(i, "", ""));
    found.tokens.forEach(({ base, now }, i) => shade(i, level(gains[i], NATS), `chance ${percent(base)} → ${percent(now)}`));
    const mean = gains.reduce((sum, gain) => sum + gain, 0) / gains.length;
    const rest = gains.length < spans.length ? ` (its first ${gains.length} tokens)` : "";
    const to = found.version ?? "the model as it was, which serves";
    legend.replaceChildren(
      `From the model as it was to ${to}${rest}: ${signed(mean)} nats a token. `,
      ...(found.version ? bothWays("less likely", "likelier") : []),
    );
  }
}

const percent = (logprob) => `${(100 * Math.exp(logprob)).toFixed(1)} %`;

const signed = (value) => `${value > 0 ? "+" : ""}${value.toFixed(2)}`;

// Up (u) or down (d), in four steps.
function level(value, steps) {
  const step = steps.filter((least) => Math.abs(value) >= least).length;
  return step ? `${value > 0 ? "u" : "d"}${step}` : "";
}

function scale(kind, from, to) {
  return [0, 1, 2, 3, 4].map((i) => h("span", { class: `${kind}${i}` }, i === 0 ? from : i === 4 ? to : "\u2003"));
}

const bothWays = (down, up) => [
  h("span", { class: "d4" }, down),
  ...["d3", "d2", "d1", "", "u1", "u2", "u3"].map((kind) => h("span", { class: kind }, "\u2003")),
  h("span", { class: "u4" }, up),
];
