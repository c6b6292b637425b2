// The page of one transcript: connects text, audio, waveform, speakers, find, edits and keys.
import { bytes, get, jobPath, reason, send, sentence, trouble, watch } from "./api.js";
import { Conflicts } from "./conflicts.js";
import { Editor } from "./editor.js";
import { Edits } from "./edits.js";
import { exportMenu } from "./export.js";
import { listen } from "./keys.js";
import { reader } from "./reader.js";
import { enter } from "./session.js";
import { Speakers } from "./speakers.js";
import {
  $,
  about,
  button,
  clock,
  counted,
  el,
  languageName,
  ready,
  say,
  showLine,
  shownName,
  start,
} from "./ui.js";
import { Versions } from "./versions.js";

const PARTIAL_MS = 4000; // between two looks at the text of a running job
const jobId = decodeURIComponent(location.pathname.split("/")[2]);
const isFinal = ({ status }) => !["queued", "running"].includes(status);

const speakers = new Speakers();
const { text, sound, wave, find, doubts } = reader($("#audio"), speakers);
const edits = new Edits(jobId, text, { mark: $("#saved"), say });
const editor = new Editor(text, sound, edits, { root: $("#text"), button: $("#edit") });
const conflicts = new Conflicts(text, edits);
const versions = new Versions(jobId, edits, restored);
let job;

// harbour-bakery.ogg -> Harbour bakery. Names with spaces or dates stay as they are.
function titleOf(name) {
  const stem = shownName(name).replace(/(?<=.)\.\w{1,5}$/u, "");
  if (/\s|\d[-_]\d/u.test(stem)) return stem;
  return stem.replace(/[-_]+/gu, " ").replace(/^./u, (letter) => letter.toLocaleUpperCase());
}

function drawHead() {
  const title = titleOf(job.name);
  $("h1").textContent = title;
  $(".crumb-title").textContent = title;
  document.title = `${title} · TranscribeMCP`;
  const { doc } = text;
  const facts = [
    (doc ?? job.duration_s) && clock(doc?.duration ?? job.duration_s),
    languageName(doc?.language ?? job.language),
    doc && counted(text.words.length, "word"),
    doc?.model ?? job.model,
  ];
  const items = facts.filter(Boolean);
  $(".facts").replaceChildren(
    ...items.map((fact) => el("span", { className: "num", textContent: fact })),
  );
  const warnings = doc?.warnings ?? job.warnings;
  $("#notes").hidden = !warnings.length;
  const n = warnings.length;
  $("#notes summary span").textContent = n === 1 ? "1 note" : `${n} notes`;
  $(".notes").replaceChildren(
    ...warnings.map(({ message }) => el("li", { textContent: sentence(message) })),
  );
}

// --- states before the end ----------------------------------------------------------------------

function banner(kind, ...children) {
  $("#banners").replaceChildren(el("section", { className: `banner ${kind}` }, ...children));
}

function drawState() {
  const isRunning = job.status === "running";
  for (const tool of document.querySelectorAll(
    ".dock, #find-button, #export-button, #help-button",
  )) {
    tool.hidden = !text.doc;
  }
  $("#pending").hidden = !isRunning;
  if (job.status === "completed") return $("#banners").replaceChildren();
  if (isRunning) return drawProgress();
  if (job.status === "queued") {
    const place =
      job.queue_position === 1 ? "It is next in line." : "It is waiting for other recordings.";
    const words = job.waiting_for ? sentence(job.waiting_for) : place;
    return banner(
      "plain",
      el("h2", { textContent: "Not started yet" }),
      el("p", { textContent: words }),
    );
  }
  const isStopped = job.status === "cancelled";
  const message = isStopped ? "This recording was stopped." : reason(job);
  return banner(
    "",
    el("h2", { textContent: message }),
    job.error?.hint && el("p", { textContent: sentence(job.error.hint) }),
    el("div", { className: "row" }, button("Try again", "line", again)),
  );
}

function drawProgress() {
  const percent = Math.round(job.percent);
  let bar = $("#banners .prog");
  if (!bar) {
    bar = el("progress", { className: "prog", max: 100, "aria-label": "Transcribed" });
    const words = el("div", { className: "prog-words num" }, el("span"), el("span"));
    banner("plain", el("h2", { textContent: "Still transcribing" }), bar, words);
  }
  bar.value = job.percent;
  const [done, left] = $("#banners .prog-words").children;
  done.textContent = `${percent} % transcribed`;
  left.textContent = job.eta_s === null ? "" : about(job.eta_s);
}

async function again() {
  try {
    job = await send("POST", jobPath(jobId, "/retry"));
    drawState();
    say("Queued again");
  } catch (error) {
    say(error.message);
  }
}

// --- loading ------------------------------------------------------------------------------------

const mayHaveText = () => job.status === "completed" || job.percent > 0;

// Reads the text; of an unfinished job the part so far.
async function read() {
  if (!mayHaveText()) return;
  let doc;
  try {
    doc = await get(jobPath(jobId, "/transcript"));
  } catch (error) {
    if (error.status === 404 || error.status === 409) return;
    throw error;
  }
  for (const { id } of doc.speakers ?? []) speakers.colour(id);
  await text.update(doc);
  drawHead();
  drawState();
  if (job.status === "completed") {
    edits.attach(doc);
    $("#edit").hidden = false;
    $("#saved").hidden = false;
  }
  if (!$("#audio").src) listenTo();
}

async function restored(doc) {
  await text.update(doc);
  edits.attach(doc);
}

let reading = null;

// Follows the job: its progress, its text so far, its end, and edits elsewhere.
function follow() {
  const changed = (row) => {
    if (row.job_id !== jobId) return;
    const wasFinal = isFinal(job);
    job = row;
    if (wasFinal && row.status === "completed") return edits.heard(row.revision);
    drawState();
    drawHead();
    if (isFinal(row)) return finish();
    reading ??= setTimeout(
      () =>
        read()
          .catch(() => {})
          .finally(() => (reading = null)),
      PARTIAL_MS,
    );
    return undefined;
  };
  watch({
    id: jobId,
    job: changed,
    deleted: (id) => id === jobId && location.assign("/"),
    again: () => get(jobPath(jobId)).then(changed, () => {}),
    line: showLine,
  });
}

async function finish() {
  clearTimeout(reading);
  reading = null;
  await read().catch((error) => say(error.message));
  drawState();
}

// A recording that needs a copy to play may take some seconds.
async function listenTo() {
  $("#audio").src = jobPath(jobId, "/audio");
  const peaks = await bytes(jobPath(jobId, "/peaks")).catch(() => new ArrayBuffer(0));
  wave.setPeaks(new Int8Array(peaks));
}

// The recording may have been moved; the text can still be read.
async function soundFailed() {
  const problem = await trouble(jobPath(jobId, "/audio"));
  $(".dock").dataset.silent = "true";
  const words = problem?.message ?? "This browser cannot play the recording.";
  $("#silent").textContent = words;
  for (const control of document.querySelectorAll(".dock button, .dock input"))
    control.disabled = true;
}

// --- user actions ------------------------------------------------------------------------------

function clicked(event) {
  const para = event.target.closest(".turn")?.para;
  if (!para) return undefined;
  const who = event.target.closest(".who");
  if (who) return speakers.edit(para.segments[0].speaker, who, para);
  if (event.target.closest(".banner")) return undefined;
  if (event.target.closest(".at")) return sound.playFrom(para.segments[0].start);
  const word = event.target.closest(".w")?.word;
  if (!word || !getSelection().isCollapsed) return undefined;
  if (editor.isOn && !event.ctrlKey && !event.metaKey) return undefined;
  text.point(null);
  text.rove(para.i);
  sound.seek(word.start);
  return sound.follow(true);
}

const page = {
  text,
  sound,
  edits,
  editor,
  find,
  doubts,
  help: () => $("#help").showModal(),
  goTo: () => $("#goto").showModal(),
  speakerHere() {
    const turn = document.activeElement.closest(".turn");
    const para = turn?.para ?? sound.current ?? text.paras[0];
    if (!para) return;
    text.reveal(para, true);
    const word = text.words[text.cursor];
    const isHere = (segment) => word && segment.words.includes(word);
    const k = editor.span ? editor.at - para.from : para.segments.findIndex(isHere);
    const from = para.node.querySelector(".who") ?? para.at;
    speakers.edit(para.segments[0].speaker, from, para, k < 0 ? -1 : para.from + k);
  },
};

function went() {
  const dialog = $("#goto");
  if (dialog.returnValue !== "ok") return;
  dialog.returnValue = "";
  const parts = $("#goto-time").value.trim().split(":").map(Number);
  if (!parts.every((part) => Number.isFinite(part) && part >= 0))
    return say("Enter a time such as 12:34");
  sound.goTo(parts.reduce((sum, part) => sum * 60 + part, 0));
}

function marked() {
  if (!conflicts.go()) versions.open();
}

function lost(error) {
  const isGone = error.status === 404;
  $("h1").textContent = isGone ? "Recording not found" : "This page could not be loaded";
  const words = isGone ? "It may have been deleted." : error.message;
  banner(
    "plain",
    el("p", { textContent: words }),
    el(
      "div",
      { className: "row" },
      el("a", { className: "btn line", href: "/", textContent: "All recordings" }),
    ),
  );
  for (const part of document.querySelectorAll(".dock, .rail, .top > .btn")) part.hidden = true;
}

async function open() {
  const config = await enter();
  start();
  exportMenu(jobId, config.formats, edits);
  $("#help-button").onclick = page.help;
  $("#goto").onclose = went;
  $("#text").addEventListener("click", clicked);
  $("#audio").addEventListener("error", soundFailed);
  $("#saved").onclick = marked;
  listen(page);
  job = await get(jobPath(jobId));
  speakers.attach(text, edits);
  text.drawn.push(drawHead);
  drawHead();
  drawState();
  follow();
  await read();
  const at = new URLSearchParams(location.search).get("at");
  if (at !== null && Number.isFinite(Number(at))) sound.goTo(Number(at));
}

try {
  await open();
} catch (error) {
  start();
  lost(error);
}
ready();
