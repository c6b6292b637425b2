// The list of recordings, newest first. It follows the server's events.
import { get, jobPath, send, watch } from "./api.js";
import { Row } from "./rows.js";
import { enter } from "./session.js";
import {
  $,
  button,
  counted,
  day,
  el,
  icon,
  openAt,
  ready,
  say,
  showLine,
  shownName,
  start,
} from "./ui.js";
import { Uploads } from "./upload.js";

const LIMIT = 50;
const MAX_LIMIT = 500; // of the server
const TYPING_MS = 200;
const ACTIVE = ["queued", "running"];

const rows = new Map(); // job_id -> Row
let cursor = null;
let request = null;
let shown = ""; // what the list shows, to leave it alone while nothing moves

const filter = () => ({
  status: $("input[name=show]:checked").value.split(" ").filter(Boolean),
  source: $("#name").value.trim(),
});
const isFiltered = () => filter().status.length > 0 || filter().source !== "";

function matches(job) {
  const { status, source } = filter();
  const isWanted = !status.length || status.includes(job.status);
  return isWanted && job.name.toLowerCase().includes(source.toLowerCase());
}

// --- reading ------------------------------------------------------------------------------------

async function load(older = false) {
  request?.abort();
  request = new AbortController();
  const { status, source } = filter();
  // Names are compared here: the server's filter does not cover the names of uploads.
  const limit = String(source ? MAX_LIMIT : LIMIT);
  const params = { status, limit, cursor: older ? cursor : null };
  let page;
  try {
    page = await get("/api/jobs", params, request.signal);
  } catch (error) {
    if (error.name !== "AbortError") say(error.message);
    return;
  }
  const found = page.jobs.filter(matches);
  if (!older) keepOnly(new Set(found.map((job) => job.job_id)));
  cursor = page.next_cursor;
  for (const job of found) put(job);
  draw();
}

function keepOnly(ids) {
  for (const id of rows.keys()) if (!ids.has(id)) rows.delete(id);
}

function put(job) {
  const row = rows.get(job.job_id);
  if (row) row.update(job);
  else rows.set(job.job_id, new Row(job, { retry, menu }));
}

function changed(job) {
  const isOlder = cursor && [...rows.values()].every((row) => row.job.created_at > job.created_at);
  if (!matches(job)) rows.delete(job.job_id);
  else if (rows.has(job.job_id) || !isOlder) put(job);
  draw();
}

function deleted(id) {
  if (rows.delete(id)) draw();
}

// --- showing ------------------------------------------------------------------------------------

function newestFirst(a, b) {
  const time = ({ job }) => Date.parse(job.created_at);
  return time(b) - time(a) || (b.job.job_id > a.job.job_id ? 1 : -1);
}

function draw() {
  const list = $("#list");
  const isEmpty = !rows.size && !isFiltered();
  $("#filters").hidden = isEmpty;
  $("#add").hidden = isEmpty;
  $("#older").hidden = !cursor;
  const sorted = [...rows.values()].sort(newestFirst);
  $("#summary").textContent = summary(sorted);
  const days = new Map();
  for (const row of sorted) {
    const name = day(row.job.created_at);
    days.set(name, [...(days.get(name) ?? []), row]);
  }
  const now = JSON.stringify([
    isEmpty,
    ...[...days].map(([name, some]) => [name, ...some.map((row) => row.job.job_id)]),
  ]);
  if (now === shown) return;
  shown = now;
  const focused = list.contains(document.activeElement) ? document.activeElement : null;
  list.replaceChildren(...content(isEmpty, days));
  if (focused?.isConnected) focused.focus({ preventScroll: true });
  else if (focused) list.focus({ preventScroll: true });
}

function content(isEmpty, days) {
  if (isEmpty) return [firstSteps()];
  if (!days.size) {
    const words = "No recording matches the filter. Clear it to see all.";
    return [el("p", { className: "quiet", textContent: words })];
  }
  return [...days].map(([name, some]) =>
    el(
      "section",
      { className: "day" },
      el("h2", { textContent: name }),
      el("ul", {}, ...some.map((row) => row.node)),
    ),
  );
}

function summary(sorted) {
  const n = counted(sorted.length, "recording");
  if (!sorted.length) return "";
  if (isFiltered()) return cursor ? `${n} and more` : n;
  if (cursor) return `The newest ${n}`;
  const seconds = sorted.reduce((sum, row) => sum + (row.job.duration_s ?? 0), 0);
  if (seconds < 30) return n;
  const isShort = seconds < 5400;
  const length = isShort
    ? counted(Math.round(seconds / 60), "minute")
    : counted(Math.round(seconds / 3600), "hour");
  return `${n}, ${length}`;
}

function firstSteps() {
  const choose = button("Choose a recording", "main", () => $("#files").click());
  const drop = "Drop it anywhere on this page, or choose it. ";
  return el(
    "div",
    {},
    el(
      "div",
      { className: "first" },
      icon("mark", "big"),
      el("h2", { textContent: "Start with one recording" }),
      el(
        "p",
        {},
        "A voice memo, a meeting, a film. ",
        el("span", { className: "only-mouse", textContent: drop }),
        "It is transcribed on this machine and sent nowhere else.",
      ),
      choose,
    ),
    el(
      "div",
      { className: "aside" },
      el("p", { textContent: "Or from a terminal, for whole folders:" }),
      el("code", {
        className: "cmd",
        textContent: "transcribe-mcp transcribe talks/ --queue",
        tabIndex: 0,
      }),
    ),
  );
}

// --- acting -------------------------------------------------------------------------------------

async function act(done, call) {
  try {
    const job = await call();
    if (job) changed(job);
    say(done);
  } catch (error) {
    say(error.message);
  }
}

function retry(job) {
  return act("Queued again", () => send("POST", jobPath(job.job_id, "/retry")));
}

function stop(job) {
  return act("Stopped", () => send("POST", jobPath(job.job_id, "/cancel")));
}

async function remove(job) {
  const words = "The transcript is deleted permanently. Your own files stay where they are.";
  if (!(await isSure(`Delete ${shownName(job.name)}?`, words, "Delete"))) return;
  act("Deleted", async () => {
    await send("DELETE", jobPath(job.job_id));
    deleted(job.job_id);
  });
}

function isSure(title, words, yes) {
  const dialog = $("#sure");
  $("#sure-title").textContent = title;
  $("#sure-words").textContent = words;
  $("#sure-yes").textContent = yes;
  dialog.returnValue = "";
  dialog.showModal();
  return new Promise((resolve) => {
    dialog.onclose = () => resolve(dialog.returnValue === "ok");
  });
}

function menu(job, from) {
  const pop = $("#row-menu");
  const item = (words, call, className = "") =>
    el("button", {
      type: "button",
      textContent: words,
      className,
      onclick: () => {
        pop.hidePopover();
        call(job);
      },
    });
  const file = (words, format) =>
    el("a", {
      href: `${jobPath(job.job_id, "/export")}?format=${format}`,
      download: "",
      textContent: words,
      onclick: () => pop.hidePopover(),
    });
  const bad = "danger";
  if (ACTIVE.includes(job.status)) pop.replaceChildren(item("Stop", stop, bad));
  else if (job.status === "completed") {
    pop.replaceChildren(
      file("Export subtitles", "srt"),
      file("Export text", "txt"),
      el("hr"),
      item("Delete", remove, bad),
    );
  } else pop.replaceChildren(item("Try again", retry), el("hr"), item("Delete", remove, bad));
  openAt(pop, from);
  pop.querySelector("a, button").focus();
}

// --- the page -----------------------------------------------------------------------------------

async function open() {
  const config = await enter();
  start();
  let typing;
  $("#name").oninput = () => {
    clearTimeout(typing);
    typing = setTimeout(load, TYPING_MS);
  };
  for (const input of document.querySelectorAll("input[name=show]")) input.onchange = () => load();
  $("#older").onclick = () => load(true);
  $("#add").onclick = () => $("#files").click();
  const uploads = new Uploads(config, (job) => changed(job));
  uploads.listen();
  await load();
  watch({ job: changed, deleted, again: () => load(), line: showLine });
}

try {
  await open();
} catch (error) {
  start();
  $("#list").replaceChildren(el("p", { className: "quiet", textContent: error.message }));
}
ready();
