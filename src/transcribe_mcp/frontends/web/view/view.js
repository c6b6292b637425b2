// A transcript in a conversation: text and sound of one job. The client selects it.
import { $, clock, counted, el, setIcon, shownName } from "./elements.js";
import { Colours } from "./colours.js";
import { listen } from "./keys.js";
import { reader } from "./reader.js";
import { Client, answerOf } from "./client.js";
import { Clips } from "./clips.js";

const HEIGHT_PX = 560; // beside a conversation

const client = new Client({
  "ui/notifications/tool-input": (params) => (given = params.arguments ?? {}),
  "ui/notifications/tool-result": (result) => open(result),
  "ui/notifications/tool-cancelled": () => fail("The call was cancelled."),
  "ui/notifications/host-context-changed": (changes) => {
    Object.assign(client.context, changes);
    fit();
  },
  "ui/resource-teardown": () => sound.audio.pause(),
});
const clips = new Clips(async (start_s) => {
  const { base64 } = await client.tool("view_audio", { job_id: shown.job_id, start_s });
  return Uint8Array.from(atob(base64), (letter) => letter.charCodeAt(0)).buffer;
});
const { text, sound, find, doubts } = reader(clips, new Colours());
// The view is read-only: keys that edit do nothing.
const nothing = () => {};
const READS = {
  editor: { isOn: false, span: null, turn: nothing, undo: nothing },
  edits: { save: nothing },
  help: nothing,
  goTo: nothing,
  speakerHere: nothing,
};
let given = {}; // the arguments of show_transcript
let shown = null; // its answer

// --- messages of the client ----------------------------------------------------------------------

async function open(result) {
  try {
    shown = answerOf(result);
    await read();
    const at = Number(given.at_s ?? 0);
    if (at) sound.goTo(at);
  } catch (error) {
    fail(error.message);
  }
  document.documentElement.dataset.ready = "true";
}

// Long transcripts arrive in parts and are shown as they arrive.
async function read() {
  const segments = [];
  let first = 0;
  let revision;
  while (first !== undefined) {
    const given = { job_id: shown.job_id, first, revision }; // all of one revision
    const part = await client.tool("view_transcript", given);
    ({ revision } = part);
    segments.push(...part.segments.map(withWords));
    first = part.next_first;
    clips.duration = part.duration;
    await text.update({ ...part, segments: [...segments] });
    drawHead(part);
  }
}

function withWords({ words, ...segment }) {
  const named = words.map(([word, start, end, probability]) => ({
    word,
    start,
    end,
    probability: probability ?? null,
  }));
  return { speaker: null, ...segment, words: named };
}

function drawHead({ title, status, duration }) {
  $("h1").textContent = shownName(title);
  const facts = [clock(duration), counted(text.words.length, "word")];
  if (status !== "completed") facts.push("what is transcribed so far");
  $(".facts").replaceChildren(
    ...facts.map((fact) => el("span", { className: "num", textContent: fact })),
  );
  $(".dock").hidden = !text.words.length;
  for (const who of document.querySelectorAll(".who")) who.title = "Play from here";
  if (shown.page) {
    $("#browser").hidden = !client.abilities.openLinks;
    $("#browser").title = shown.page;
  }
}

function fail(words) {
  $("#banners").replaceChildren(
    el("section", { className: "banner plain" }, el("p", { textContent: words })),
  );
}

// Follows the client's theme and size. Without a fixed height the view asks for one, and scrolls.
function fit() {
  const { theme, displayMode, availableDisplayModes = [], containerDimensions } = client.context;
  if (theme) document.documentElement.dataset.theme = theme;
  document.dispatchEvent(new Event("looks"));
  const isFull = displayMode === "fullscreen";
  $("#full").hidden = !availableDisplayModes.includes(isFull ? "inline" : "fullscreen");
  $("#full").setAttribute("aria-label", isFull ? "Back to the conversation" : "Full screen");
  $("#full").title = $("#full").getAttribute("aria-label");
  setIcon($("#full"), isFull ? "shrink" : "full");
  if (isFull || containerDimensions?.height) return;
  const height = Math.min(HEIGHT_PX, containerDimensions?.maxHeight ?? HEIGHT_PX);
  client.tell("ui/notifications/size-changed", { width: innerWidth, height });
}

// --- user actions -------------------------------------------------------------------------------

function clicked(event) {
  const para = event.target.closest(".turn")?.para;
  if (!para) return;
  if (event.target.closest(".at, .who")) return sound.playFrom(para.segments[0].start);
  const word = event.target.closest(".w")?.word;
  if (!word || !getSelection().isCollapsed) return;
  text.point(null);
  sound.seek(word.start);
  sound.follow(true);
}

// Lets "sum this up" mean the selection. The message states a fact and gives no instruction.
function selected() {
  const selection = getSelection();
  if (selection.isCollapsed || !shown) return;
  const near = text.nearParas.flatMap(({ segments }) => segments.flatMap(({ words }) => words));
  const words = near.filter((word) => word.el && selection.containsNode(word.el, true));
  if (!words.length) return;
  const start = Math.min(...words.map((word) => word.start));
  const end = Math.max(...words.map((word) => word.end));
  tellModel(`The user selected ${clock(start)} to ${clock(end)} of job ${shown.job_id}.`);
}

async function tellModel(words) {
  try {
    await client.ask("ui/update-model-context", { content: [{ type: "text", text: words }] });
  } catch {
    // A client may refuse; the selection is still there for the reader.
  }
}

async function toggleFull() {
  const mode = client.context.displayMode === "fullscreen" ? "inline" : "fullscreen";
  const answer = await client.ask("ui/request-display-mode", { mode });
  client.context.displayMode = answer.mode;
  fit();
}

function listenToReader() {
  $("#text").addEventListener("click", clicked);
  addEventListener("pointerup", selected);
  addEventListener("keyup", (event) => event.shiftKey && selected());
  $("#full").onclick = () => toggleFull().catch((error) => fail(error.message));
  $("#browser").onclick = () =>
    client.ask("ui/open-link", { url: shown.page }).catch(() => fail(`Open ${shown.page}`));
  clips.addEventListener("error", () => {
    $(".dock").dataset.silent = "true";
    $("#silent").textContent = `No sound: ${clips.error.message}`;
    $("#play").disabled = true;
  });
  listen({ text, sound, find, doubts, ...READS });
}

listenToReader();
document.body.dataset.open = "true";
client.start(["inline", "fullscreen"]).then(fit, (error) => fail(error.message));
