// Changes between versions of a transcript. `base` is the version of the server, `mine` the one
// on the page: a segment that nobody changed is the same object in both. Edits keep the order of
// segments and the end of the last one they touch, so an end that all versions share is a boundary.
import { isSame, join, plain } from "./segments.js";

const MAX_OPS = 900; // of a request; the rest goes with the next one
const MAX_LETTERS = 300000;
const EMPTY = "…"; // stands for a sentence without words until it has its place

// Yields runs of segments, [from, to] for each version, and whether all versions share the run.
function* runs(versions) {
  const places = versions.map((list) => new Map(list.map((segment, i) => [segment, i])));
  let from = versions.map(() => 0);
  for (const segment of versions[0]) {
    const at = places.map((known) => known.get(segment));
    if (at.includes(undefined)) continue;
    yield* parts(versions, from, at);
    yield { isShared: true, spans: at.map((place) => [place, place + 1]) };
    from = at.map((place) => place + 1);
  }
  const end = versions.map((list) => list.length);
  yield* parts(versions, from, end);
}

function* parts(versions, begin, end) {
  if (begin.every((place, k) => place === end[k])) return;
  let from = begin;
  const ends = versions.map((list, k) => {
    const part = list.slice(begin[k], end[k]);
    return new Map(part.map((segment, i) => [segment.end, begin[k] + i + 1]));
  });
  for (const time of ends[0].keys()) {
    const at = ends.map((known) => known.get(time));
    if (!at.every((place, k) => place > from[k] && place < end[k])) continue;
    yield { isShared: false, spans: at.map((place, k) => [from[k], place]) };
    from = at;
  }
  yield { isShared: false, spans: end.map((place, k) => [from[k], place]) };
}

// Runs of the server's version, and their counterparts on the page from position `at`.
export function pairs(base, mine) {
  return [...runs([base, mine])].map(({ isShared, spans }) => ({
    isShared,
    theirs: base.slice(...spans[0]),
    mine: mine.slice(...spans[1]),
    at: spans[1][0],
  }));
}

// Speakers renamed in all their sentences: old name -> new name.
function renames(all) {
  const names = new Map();
  for (const { theirs, mine } of all) {
    for (const { speaker } of theirs) {
      if (!names.has(speaker)) names.set(speaker, new Set());
      for (const each of mine) names.get(speaker).add(each.speaker);
    }
  }
  const found = new Map();
  for (const [from, to] of names) {
    const [name] = to;
    if (from && name && to.size === 1 && name !== from) found.set(from, name);
  }
  for (const name of [...found.values()]) found.delete(name); // two that swap their names
  return found;
}

const bare = (text) => text.replace(/\s+/gu, "");

// Number of words at the start that make up a text.
function countWords(words, text) {
  let left = bare(text).length;
  let n = 0;
  while (n < words.length && left > bare(words[n].word).length / 2) {
    left -= bare(words[n].word).length;
    n++;
  }
  return Math.max(1, n);
}

// Indices of the first words of all parts of a text except the first; null with too few words.
function cuts(words, texts) {
  const found = [];
  let n = 0;
  for (const text of texts.slice(0, -1)) {
    n += countWords(words.slice(n), text);
    found.push(n);
  }
  return n < words.length ? found : null;
}

// Ops that turn the run `theirs` at a position into `mine`, and the resulting segments. If a new
// text is also split, the split waits for the next request, when the words come from the server.
function rewrite(at, theirs, mine) {
  const isOne = theirs.length === 1 && mine.length === 1;
  if (isOne && plain(theirs[0].text) === plain(mine[0].text)) return { ops: [], made: theirs };
  const ops = theirs.slice(1).map(() => ({ op: "merge", segment: at }));
  const joined = join(theirs);
  const texts = mine.map(({ text }) => plain(text) || EMPTY);
  const isCut = mine.length > 1;
  const text = isCut ? texts.join(" ") : plain(mine[0].text);
  const isNew =
    isCut || ops.length ? bare(text) !== bare(joined.text) : text !== plain(joined.text);
  if (isNew) {
    ops.push({ op: "text", segment: at, text });
    const made = isCut ? [{ ...join(mine), text, speaker: joined.speaker }] : mine;
    return { ops, made, isLater: isCut };
  }
  const words = isCut ? cuts(joined.words, texts) : [];
  if (!words) return null;
  ops.push(...words.reverse().map((word) => ({ op: "split", segment: at, word })));
  for (const [k, part] of mine.entries()) {
    if (isCut && !part.text.trim()) ops.push({ op: "text", segment: at + k, text: "" });
  }
  return { ops, made: mine };
}

// The ops that turn the server's version into `mine`, and the resulting version. A run with a
// segment of `held` stays as it is on the server.
export function plan(base, mine, held = new Set()) {
  const all = pairs(base, mine);
  const names = renames(all);
  const ops = [...names].map(([from, to]) => ({ op: "rename", from, to }));
  const target = [];
  const swaps = new Map(); // segments of the page -> those of the server with the same text
  const speakers = new Map();
  let letters = 0;
  const has = (segment) => names.get(segment.speaker) ?? segment.speaker;
  for (const { isShared, theirs, mine: own } of all) {
    const isLater = ops.length > MAX_OPS || letters > MAX_LETTERS;
    const isHeld = isShared || isLater || theirs.some((segment) => held.has(segment));
    const change = isHeld ? null : rewrite(target.length, theirs, own);
    if (!change) {
      target.push(...theirs);
      continue;
    }
    for (const op of change.ops) letters += op.text?.length ?? 0;
    ops.push(...change.ops);
    const speaker = has(theirs[0]);
    for (const [k, segment] of change.made.entries()) {
      const wanted = change.isLater ? speaker : own[k].speaker;
      if (!speakers.has(wanted)) speakers.set(wanted, []);
      if (wanted !== speaker) speakers.get(wanted).push(target.length);
      const made = segment.speaker === wanted ? segment : { ...segment, speaker: wanted };
      if (change.made === theirs) swaps.set(own[k], made);
      target.push(made);
    }
  }
  for (const [speaker, segments] of speakers) {
    if (segments.length) ops.push({ op: "speaker", segments, speaker });
  }
  return { ops, target, names, swaps };
}

// The server's version after applying a plan: old object -> new object.
export function taken({ target, names, swaps }, answer) {
  const rows = new Map(answer.segments.map((row) => [row.id, row]));
  const given = new Map(Object.entries(answer.renamed ?? {}));
  for (const [from, to] of names) given.set(to, given.get(from) ?? to);
  const map = new Map();
  for (const [i, segment] of target.entries()) {
    const speaker = given.get(segment.speaker) ?? segment.speaker;
    const same = speaker === segment.speaker ? segment : { ...segment, speaker };
    map.set(segment, rows.get(i) ?? same);
  }
  for (const [mine, segment] of swaps) map.set(mine, map.get(segment));
  return map;
}

export const isEqual = (a, b) =>
  a.length === b.length &&
  a.every(({ text, speaker }, i) => speaker === b[i].speaker && plain(text) === plain(b[i].text));

const isSameText = (a, b) =>
  a.length === b.length && a.every(({ text }, i) => plain(text) === plain(b[i].text));

// The segments with other windows' new names for the speakers of `was`.
function relabelled(segments, was, now) {
  const names = new Map(was.map(({ speaker }, i) => [speaker, now[i].speaker]));
  return segments.map((segment) => {
    const speaker = names.get(segment.speaker) ?? segment.speaker;
    return speaker === segment.speaker ? segment : { ...segment, speaker };
  });
}

function decide(was, own, other) {
  if (isEqual(was, own) || isEqual(own, other)) return other;
  if (isEqual(was, other)) return own;
  if (isSameText(was, other)) return relabelled(own, was, other);
  if (isSameText(was, own)) return relabelled(other, was, own);
  return null;
}

// Merges two versions derived from `base`. If both changed a text, mine stays on the page and
// `held` has the other one, until the user chooses.
export function merged(base, mine, given) {
  const key = ({ start, end, text }) => `${start} ${end} ${text}`;
  const known = new Map(base.map((segment) => [key(segment), segment]));
  const theirs = given.map((segment) => {
    const old = known.get(key(segment));
    return isSame(old, segment) ? old : segment;
  });
  const held = new Set();
  const result = [];
  for (const { spans } of runs([base, mine, theirs])) {
    const [was, own, other] = [base, mine, theirs].map((list, k) => list.slice(...spans[k]));
    const decision = decide(was, own, other);
    if (!decision) for (const segment of other) held.add(segment);
    result.push(...(decision ?? own));
  }
  return { base: theirs, mine: result, held };
}
