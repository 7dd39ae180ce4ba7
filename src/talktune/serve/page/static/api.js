// The server's routes; the key is asked for once, where it needs one, and kept for this tab.

import { by } from "/page/dom.js";

const KEPT = "talktune-key";
let asking = null;

export const get = async (path) => (await request(path)).json();

export const text = async (path) => (await request(path)).text();

export const post = async (path, body) => (await request(path, body ?? {})).json();

// Server-sent events of a route, each as parsed JSON; returns when the stream has ended.
export async function stream(path, body, onevent, signal) {
  const reply = await request(path, body, signal);
  const reader = reply.body.pipeThrough(new TextDecoderStream()).getReader();
  let held = "";
  for (;;) {
    const { value, done } = await reader.read();
    if (done) return;
    const lines = (held + value).split("\n");
    held = lines.pop();
    for (const line of lines) {
      if (line.startsWith("data: ") && line !== "data: [DONE]") onevent(JSON.parse(line.slice(6)));
    }
  }
}

async function request(path, body, signal) {
  for (;;) {
    const key = sessionStorage.getItem(KEPT);
    const headers = key ? { Authorization: `Bearer ${key}` } : {};
    const sent = body === undefined ? {} : { method: "POST", body: JSON.stringify(body) };
    if (body !== undefined) headers["Content-Type"] = "application/json";
    let reply;
    try {
      reply = await fetch(path, { ...sent, headers, signal });
    } catch (error) {
      if (error.name === "AbortError") throw error;
      throw new Error("The server does not answer; is it still running?");
    }
    if (reply.status === 401) {
      // A key that was typed meanwhile is tried before another is asked for.
      if (key === sessionStorage.getItem(KEPT)) await (asking ??= askForKey(key));
    } else if (reply.ok || path === "/health") return reply;
    else throw new Error(await words(reply));
  }
}

async function words(reply) {
  const said = await reply.json().catch(() => ({}));
  return said.error?.message ?? `The server answered with status ${reply.status}.`;
}

function askForKey(tried) {
  return new Promise((done) => {
    if (tried) by("key-why").textContent = "The server does not know that key; type another.";
    by("key-form").onsubmit = (event) => {
      event.preventDefault();
      sessionStorage.setItem(KEPT, by("key-words").value.trim());
      by("key-words").value = "";
      by("key").close();
      asking = null;
      done();
    };
    by("key").oncancel = (event) => event.preventDefault();
    by("key").showModal();
  });
}
