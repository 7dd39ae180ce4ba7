// A conversation with the live policy, like any other client's.

import { get, stream } from "/page/api.js";
import { by, h } from "/page/dom.js";
import { verdict } from "/page/verdict.js";

let messages = [];
let session = newSession();
let running = null;

export function start() {
  by("say").addEventListener("submit", (event) => {
    event.preventDefault();
    say(by("words").value.trim());
  });
  by("words").addEventListener("keydown", (event) => {
    if (event.key === "Enter" && !event.shiftKey && !event.isComposing) {
      event.preventDefault();
      by("say").requestSubmit();
    }
  });
  by("stop").addEventListener("click", () => running?.abort());
  by("anew").addEventListener("click", () => {
    running?.abort();
    messages = [];
    session = newSession();
    welcome();
    by("words").focus();
  });
  welcome();
}

function welcome() {
  by("said").replaceChildren(
    h(
      "p",
      { class: "dim" },
      "Ask something. Then react, as you would to a person: in words, with a thumb, or with the answer that you wanted. " +
        "It learns from that.",
    ),
  );
}

async function say(text) {
  if (!text || running) return;
  by("words").value = "";
  if (!messages.length) by("said").replaceChildren();
  const asked = [...messages, { role: "user", content: text }];
  const body = h("div", { class: "text", dir: "auto" });
  const who = h("span", { class: "dim" }, "talktune");
  const answer = h("article", { class: "answer", "aria-busy": "true", "aria-label": "Answer" }, who, body);
  by("said").append(h("article", { class: "mine", "aria-label": "You" }, h("div", { class: "text", dir: "auto" }, text)));
  by("said").append(answer);
  busy(new AbortController());
  let id = null;
  try {
    const request = { model: await model(), messages: asked, stream: true, session_id: session };
    await stream("/v1/chat/completions", request, take, running.signal);
    if (!body.textContent) body.append(h("span", { class: "dim" }, "(an empty answer)"));
    messages = [...asked, { role: "assistant", content: body.textContent }];
    if (id) answer.append(verdict(id, null));
  } catch (error) {
    const stopped = error.name === "AbortError";
    answer.append(h("p", { class: "failed", role: "alert" }, stopped ? "Stopped; it is not learned from." : error.message));
    if (!stopped && !body.textContent) by("words").value = text;
  } finally {
    answer.removeAttribute("aria-busy");
    busy(null);
    scroll();
  }

  function take(chunk) {
    if (chunk.error) throw new Error(chunk.error.message);
    id = chunk.id;
    who.textContent = chunk.model;
    body.append(chunk.choices[0]?.delta?.content ?? "");
    scroll();
  }
}

function busy(controller) {
  running = controller;
  by("send").disabled = running !== null;
  by("stop").hidden = running === null;
}

function scroll() {
  by("said").scrollTop = by("said").scrollHeight;
}

// Any name is the live policy's, but where the server takes none but its own.
async function model() {
  const found = await get("/v1/models").catch(() => ({ data: [] }));
  return found.data[0]?.id ?? "talktune";
}

function newSession() {
  const random = crypto.getRandomValues(new Uint8Array(12));
  return `page-${Array.from(random, (byte) => byte.toString(16).padStart(2, "0")).join("")}`;
}
