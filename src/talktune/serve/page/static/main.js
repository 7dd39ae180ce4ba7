// The page: its parts are drawn from the server's routes, again whenever it says that something changed.

import { get, stream } from "/page/api.js";
import { by, h } from "/page/dom.js";
import * as health from "/page/health.js";
import * as learned from "/page/learned.js";
import * as talk from "/page/talk.js";
import * as turns from "/page/turns.js";
import * as versions from "/page/versions.js";

const AGAIN = 2000;
const HEALTH = 15000;
let refreshing = null;
let wanted = false;

talk.start();
turns.start();
versions.start();
refresh();
listen();
setInterval(refresh, HEALTH);

// One round at a time; what changes meanwhile is seen by the next.
function refresh() {
  if (refreshing) wanted = true;
  refreshing ??= round().finally(() => {
    refreshing = null;
    if (wanted) {
      wanted = false;
      refresh();
    }
  });
}

async function round() {
  try {
    await Promise.all([turns.refresh(), learning()]); // turns do not wait for the picture, which reads all verdicts
    by("lost")?.remove();
  } catch (error) {
    if (!by("lost")) document.querySelector("main").before(h("p", { id: "lost", class: "note", role: "alert" }, error.message));
  }
}

async function learning() {
  const found = await get("/v1/learning");
  learned.show(found);
  await Promise.all([versions.refresh(found.admin), health.refresh(found)]);
}

async function listen() {
  for (;;) {
    try {
      await stream("/v1/events", undefined, refresh);
    } catch {
      // The server is away: it is asked again.
    }
    await new Promise((done) => setTimeout(done, AGAIN));
  }
}
