// The share of liked answers over reactions as SVG: a line, its 95 % band, versions as marks.

import { h, percent, svg } from "/page/dom.js";

const WIDTH = 640;
const HEIGHT = 260;
const LEFT = 48;
const RIGHT = 12;
const TOP = 26;
const BOTTOM = 40;
const LABEL = 28; // between two versions that are both named

export function plot(points, marks, label) {
  const last = points.at(-1).number;
  const first = Math.min(points[0].number, last - 1);
  const x = (number) => LEFT + ((number - first) / (last - first)) * (WIDTH - LEFT - RIGHT);
  const y = (share) => TOP + (1 - share) * (HEIGHT - TOP - BOTTOM);
  const at = (number, share) => `${x(number).toFixed(1)},${y(share).toFixed(1)}`;
  const line = points.map((p) => at(p.number, p.share)).join(" ");
  const upper = points.map((p) => at(p.number, p.high));
  const lower = points.map((p) => at(p.number, p.low)).reverse();
  const rows = [0, 0.25, 0.5, 0.75, 1].map((share) => [
    svg("line", { class: "grid", x1: LEFT, x2: WIDTH - RIGHT, y1: y(share), y2: y(share) }),
    svg("text", { x: LEFT - 6, y: y(share) + 4, "text-anchor": "end" }, percent(share)),
  ]);
  const ends = [points[0].number, last].map((number, i) =>
    svg("text", { x: x(number), y: HEIGHT - BOTTOM + 18, "text-anchor": i ? "end" : "start" }, String(number)),
  );
  const shown = marks.filter((mark) => mark.number >= first);
  const drawing = svg(
    "svg",
    { viewBox: `0 0 ${WIDTH} ${HEIGHT}`, role: "img", "aria-label": label, class: "plot" },
    rows,
    svg("polygon", { class: "band", points: [...upper, ...lower].join(" ") }),
    shown.map((mark, i) => version(mark, x(mark.number), i + 1 === shown.length || x(shown[i + 1].number) - x(mark.number) > LABEL)),
    svg("polyline", { class: "line", points: line }),
    svg("circle", { class: "now", cx: x(last), cy: y(points.at(-1).share), r: 4 }),
    ends,
    svg("text", { x: (LEFT + WIDTH) / 2, y: HEIGHT - 6, "text-anchor": "middle" }, "answers that were liked or disliked"),
  );
  return h("figure", {}, drawing);
}

function version(mark, x, named) {
  const number = Number(mark.name.replace("policy-", ""));
  const name = mark.state === "rejected" ? `✗${number}` : `v${number}`;
  return svg(
    "g",
    { class: `mark ${mark.state}` },
    svg("title", {}, `${mark.name} ${mark.state}${mark.reason ? `: ${mark.reason}` : ""}`),
    svg("line", { x1: x, x2: x, y1: TOP, y2: HEIGHT - BOTTOM }),
    named ? svg("text", { x, y: TOP - 8, "text-anchor": "middle" }, name) : null,
  );
}
