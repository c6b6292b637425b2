// Segments of the document: sentences with their words. These functions do not change them;
// they return new ones.

const PAUSE_S = 1.6;
const PARAGRAPH_WORDS = 75;

// A paragraph ends where the speaker changes, after a pause, or where it grows long.
export function paragraphs(segments) {
  const groups = [];
  let words = 0;
  for (const segment of segments) {
    const last = groups.at(-1)?.at(-1);
    const isClose = last && segment.start - last.end < PAUSE_S && words < PARAGRAPH_WORDS;
    const goesOn = isClose && last.speaker === segment.speaker;
    if (goesOn) groups.at(-1).push(segment);
    else groups.push([segment]);
    words = (goesOn ? words : 0) + segment.words.length;
  }
  return groups;
}

export const plain = (text) => text.replace(/\s+/gu, " ").trim();

// A segment without timed words counts as one word, so that it can be clicked and followed.
export function timed(segment) {
  if (segment.words.length || !segment.text.trim()) return segment;
  const { start, end, text } = segment;
  const words = [{ word: text, start, end, probability: null, speaker: null }];
  return { ...segment, words, isUntimed: true };
}

export function isSame(a, b) {
  return (
    a &&
    a.text === b.text &&
    a.speaker === b.speaker &&
    a.start === b.start &&
    a.end === b.end &&
    a.words.length === b.words.length &&
    a.words.every(({ word, start, probability }, i) => {
      const other = b.words[i];
      return word === other.word && start === other.start && probability === other.probability;
    })
  );
}

// Number of words at the start, or at the end, that are unchanged in the new text.
function kept(words, text) {
  const isSpaced = words.length < 2 || words.slice(1).some(({ word }) => /^\s/u.test(word));
  const isBorder = (place) => !isSpaced || place === text.length || / /u.test(text[place]);
  let head = 0;
  let from = 0;
  for (const [i, { word }] of words.entries()) {
    const part = i ? word : word.trimStart();
    if (!text.startsWith(part, from)) break;
    if (!isBorder(from + part.length)) break;
    from += part.length;
    head++;
  }
  let tail = 0;
  let to = text.length;
  for (const { word } of words.slice(head).reverse()) {
    const start = to - word.length;
    if (start < from || !text.startsWith(word, start)) break;
    if (start > 0 && !isBorder(start) && !isBorder(start - 1)) break;
    to = start;
    tail++;
  }
  return { head, tail, from, to };
}

// The segment with another text. Kept words keep their times; words of a changed run share its
// span by letters. The server's better alignment replaces this.
export function retime(segment, given) {
  const text = plain(given);
  const lead = !segment.text || /^\s/u.test(segment.text) ? " " : "";
  if (segment.isUntimed) return timed({ ...segment, text: lead + text, words: [] });
  const old = segment.words;
  const { head, tail, from, to } = kept(old, text);
  const isRun = head < old.length - tail;
  const begin = isRun ? old[head].start : (old[head - 1]?.end ?? segment.start);
  const last = isRun ? old.at(-1 - tail).end : (old[old.length - tail]?.start ?? segment.end);
  const end = Math.max(begin, last);
  const fresh = text.slice(from, to).match(/\s*\S+/gu) ?? [];
  const letters = fresh.reduce((sum, word) => sum + word.length, 0);
  let at = begin;
  const made = fresh.map((word) => {
    const start = at;
    at += ((end - begin) * word.length) / letters;
    return { word, start, end: at, probability: null, speaker: segment.speaker };
  });
  const words = [...old.slice(0, head), ...made, ...old.slice(old.length - tail)];
  return { ...segment, text: text && lead + text, words: spaced(words, text, lead) };
}

// The words with the spaces that the text has before them.
function spaced(words, text, lead) {
  let at = 0;
  return words.map((word, i) => {
    const bare = word.word.trim();
    const begin = text.indexOf(bare, at);
    const space = i ? text.slice(at, begin) : lead;
    at = begin + bare.length;
    return word.word === space + bare ? word : { ...word, word: space + bare };
  });
}

// Two segments; `n` is the first word of the second.
export function split(segment, n) {
  const part = (words) => ({
    ...segment,
    words,
    start: words[0].start,
    end: words.at(-1).end,
    text: words.map(({ word }) => word).join(""),
  });
  const parts = [part(segment.words.slice(0, n)), part(segment.words.slice(n))];
  parts[0].start = segment.start;
  parts[1].end = segment.end;
  return parts;
}

export function join(segments) {
  const isSpaced = segments.some(({ text }) => /^\s|\s\S/u.test(text));
  const parts = segments.map((segment, i) => {
    const { text, words } = segment;
    if (!i || !isSpaced || !text || /^\s/u.test(text)) return segment;
    const [first, ...rest] = words;
    return { text: ` ${text}`, words: [{ ...first, word: ` ${first.word}` }, ...rest] };
  });
  return {
    ...segments[0],
    end: segments.at(-1).end,
    text: parts.map(({ text }) => text).join(""),
    words: parts.flatMap(({ words }) => words),
  };
}

// Number of words before a place in the shown text; a word counts from its middle on.
export function countBefore({ words }, letters) {
  let seen = 0;
  let n = 0;
  for (const { word } of words) {
    const part = n ? word : word.trimStart();
    if (seen + part.length / 2 >= letters) break;
    seen += part.length;
    n++;
  }
  return n;
}
