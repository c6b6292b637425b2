// Search in all finished transcripts.
import { get } from "./api.js";
import { enter } from "./session.js";
import { $, clock, counted, day, el, ready, shownName, start } from "./ui.js";

const TYPING_MS = 200;
const NOTHING = "Searches all finished transcripts.";

const input = $("input[name=q]");
let request = null;
let cursor = null;
let hits = [];

// Words and "phrases" of a query, as one pattern of whole words.
function pattern(query) {
  const parts = [...query.matchAll(/"([^"]+)"|[^\s"]+/gu)].map(([all, phrase]) => phrase ?? all);
  const words = parts.map((part) => part.replace(/^[\p{P}\s]+|[\p{P}\s]+$/gu, "")).filter(Boolean);
  if (!words.length) return null;
  const safe = words.map((word) => word.replace(/[.*+?^${}()|[\]\\/-]/g, "\\$&"));
  return new RegExp(`(?<![\\p{L}\\p{N}])(${safe.join("|")})(?![\\p{L}\\p{N}])`, "giu");
}

function marked(text, words) {
  const b = el("b");
  const parts = words ? text.split(words) : [text];
  parts.forEach((part, i) => b.append(i % 2 ? el("mark", { textContent: part }) : part));
  return b;
}

function line(hit, words) {
  const { job_id: id, start: at, speaker, before, text, after } = hit;
  return el(
    "li",
    {},
    el(
      "a",
      { className: "hit", href: `/t/${encodeURIComponent(id)}?at=${at}` },
      el("time", { textContent: clock(at) }),
      el(
        "p",
        { dir: "auto" },
        speaker && el("span", { className: "hit-who", dir: "auto", textContent: speaker }),
        before && `${before.trim()} `,
        marked(text.trim(), words),
        after && ` ${after.trim()}`,
      ),
    ),
  );
}

function draw(query) {
  const words = pattern(query);
  const groups = new Map();
  for (const hit of hits) groups.set(hit.job_id, [...(groups.get(hit.job_id) ?? []), hit]);
  $("#hits").replaceChildren(
    ...[...groups.values()].map((some) =>
      el(
        "section",
        {},
        el(
          "h2",
          {},
          el("bdi", { textContent: shownName(some[0].name) }),
          el("span", { textContent: some[0].created_at ? day(some[0].created_at) : "" }),
        ),
        el("ul", {}, ...some.map((hit) => line(hit, words))),
      ),
    ),
  );
  const sentences = counted(hits.length, "sentence");
  const places = counted(groups.size, "recording");
  const first = cursor ? "The best " : "";
  $("#count").textContent = hits.length
    ? `${first}${sentences} in ${places}`
    : `Nobody said “${query}”. Try fewer words or another spelling; names are often misheard.`;
  $("#further").hidden = !cursor;
}

async function search(older = false) {
  request?.abort();
  request = new AbortController();
  const query = input.value.trim();
  if (!query) {
    hits = [];
    cursor = null;
    $("#hits").replaceChildren();
    $("#further").hidden = true;
    $("#count").textContent = NOTHING;
    return;
  }
  try {
    const page = await get(
      "/api/search",
      { q: query, cursor: older ? cursor : null },
      request.signal,
    );
    hits = older ? [...hits, ...page.hits] : page.hits;
    cursor = page.next_cursor;
    draw(query);
  } catch (error) {
    if (error.name === "AbortError") return;
    $("#hits").replaceChildren();
    $("#further").hidden = true;
    $("#count").textContent = error.message;
  }
}

async function open() {
  await enter();
  start();
  input.value = new URLSearchParams(location.search).get("q") ?? "";
  let typing;
  input.oninput = () => {
    clearTimeout(typing);
    typing = setTimeout(() => {
      const query = input.value.trim();
      history.replaceState(null, "", query ? `?q=${encodeURIComponent(query)}` : location.pathname);
      search();
    }, TYPING_MS);
  };
  $(".ask").onsubmit = (event) => {
    event.preventDefault();
    search();
  };
  $("#further").onclick = () => search(true);
  if (!input.value) input.focus();
  await search();
}

try {
  await open();
} catch (error) {
  start();
  $("#count").textContent = error.message;
}
ready();
