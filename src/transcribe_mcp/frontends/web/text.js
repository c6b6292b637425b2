// The text: segments of the document as paragraphs of words. A paragraph far from the window holds
// plain text; it gets an element for each word when it comes near.
import { Marks } from "./marks.js";
import { clock, el } from "./elements.js";

const PAUSE_S = 1.6;
const PARAGRAPH_WORDS = 75;
const CHUNK = 80; // paragraphs made in one go, so that long transcripts do not block the page

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

// A segment without timed words is one word, so that it can be clicked and followed.
function timed(segment) {
  if (segment.words.length || !segment.text.trim()) return segment;
  const { start, end, text } = segment;
  return { ...segment, words: [{ word: text, start, end, probability: null, speaker: null }] };
}

function isSame(a, b) {
  return (
    a &&
    a.text === b.text &&
    a.speaker === b.speaker &&
    a.start === b.start &&
    a.end === b.end &&
    a.words.length === b.words.length &&
    a.words[0]?.start === b.words[0]?.start
  );
}

const pause = () => new Promise((done) => setTimeout(done));

export class Text {
  constructor(root, { live, colour }) {
    this.root = root;
    this.live = live;
    this.colour = colour;
    this.marks = new Marks();
    this.segments = [];
    this.words = [];
    this.paras = [];
    this.near = new Set();
    this.roving = 0;
    this.cursor = -1;
    this.drawing = 0;
    this.observer = new IntersectionObserver((changes) => this.scrolled(changes), {
      rootMargin: "75% 0px",
    });
    this.drawn = []; // called after the text has changed
  }

  get nearParas() {
    return [...this.near];
  }

  // Shows a document. Paragraphs that have not changed keep their elements.
  async update(doc) {
    await pause(); // reading a long document was work enough for one task
    this.doc = doc;
    const old = this.segments;
    this.segments = doc.segments.map((segment, i) => {
      const fresh = timed(segment);
      return isSame(old[i], fresh) ? old[i] : fresh;
    });
    this.index();
    const drawing = ++this.drawing;
    const kept = new Map(this.paras.map((para) => [para.segments[0], para]));
    const groups = paragraphs(this.segments);
    const paras = [];
    let speaker;
    for (const segments of groups) {
      const opens = segments[0].speaker !== speaker;
      speaker = segments[0].speaker;
      paras.push(this.keptOr(kept.get(segments[0]), segments, opens));
      paras.at(-1).i = paras.length - 1;
    }
    this.paras = paras;
    await this.show(paras, drawing);
    if (drawing !== this.drawing) return;
    while (this.root.children.length > paras.length) this.drop(this.root.lastChild);
    this.rove(Math.min(this.roving, paras.length - 1));
    for (const call of this.drawn) call();
  }

  keptOr(para, segments, opens) {
    const isKept =
      para &&
      para.opens === opens &&
      para.segments.length === segments.length &&
      para.segments.every((segment, i) => segment === segments[i]);
    const found = isKept ? para : { segments, opens, node: null, isFilled: false };
    for (const segment of segments) for (const word of segment.words) word.para = found;
    return found;
  }

  async show(paras, drawing) {
    const alive = new Set(paras);
    let built = 0;
    for (const [i, para] of paras.entries()) {
      if (!para.node) {
        if (++built % CHUNK === 0) await pause();
        if (drawing !== this.drawing) return;
        this.build(para);
      }
      const here = this.root.children[i] ?? null;
      if (here === para.node) continue;
      this.root.insertBefore(para.node, here);
      // In the place of the old one, so that the page does not jump.
      if (here && !alive.has(here.para)) this.drop(here);
    }
  }

  drop(node) {
    this.observer.unobserve(node);
    this.near.delete(node.para);
    node.remove();
  }

  index() {
    this.words = this.segments.flatMap((segment) => segment.words);
    this.words.forEach((word, i) => (word.i = i));
  }

  build(para) {
    const { speaker, start } = para.segments[0];
    const node = el("section", { className: para.opens ? "turn first-of" : "turn" });
    const side = el("div", { className: "side" });
    if (speaker) node.dataset.who = this.colour(speaker);
    if (speaker && para.opens) {
      side.append(
        el("button", {
          className: "who",
          type: "button",
          tabIndex: -1,
          dir: "auto",
          textContent: speaker,
          title: "Change the speaker (S)",
        }),
      );
    }
    const at = el("button", {
      className: "at",
      type: "button",
      tabIndex: -1,
      textContent: clock(start),
      "aria-label": `Play from ${clock(start)}${speaker ? `, ${speaker}` : ""}`,
    });
    side.append(at);
    const p = el("p", { dir: "auto", lang: para.segments[0].language ?? this.doc.language });
    p.textContent = para.segments.map(({ text }, i) => (i ? text : text.trimStart())).join("");
    node.append(side, p);
    node.para = para;
    Object.assign(para, { node, p, at });
    this.observer.observe(node);
  }

  // Makes an element for each word; the text stays the same.
  fill(para) {
    if (para.isFilled || !para.node) return;
    para.isFilled = true;
    const parts = [];
    for (const segment of para.segments) {
      for (const word of segment.words) {
        const text = word.word.trimStart();
        if (parts.length && text !== word.word) parts.push(" ");
        word.el = el("span", { className: "w", textContent: text });
        word.el.word = word;
        parts.push(word.el);
      }
    }
    para.p.replaceChildren(...parts);
  }

  scrolled(changes) {
    for (const { target, isIntersecting } of changes) {
      if (isIntersecting) {
        this.fill(target.para);
        this.near.add(target.para);
      } else this.near.delete(target.para);
    }
    this.marks.moved(this.nearParas);
  }

  mark(name, words) {
    for (const word of words) this.fill(word.para);
    this.marks.set(name, words);
  }

  markNear(name, wordsOf) {
    this.marks.setNear(name, wordsOf, this.nearParas);
  }

  // The last word that starts at or before a time; -1 before the first.
  wordAt(seconds) {
    let low = 0;
    let high = this.words.length - 1;
    while (low <= high) {
      const middle = (low + high) >> 1;
      if (this.words[middle].start <= seconds) low = middle + 1;
      else high = middle - 1;
    }
    return high;
  }

  // Scrolls a word or a paragraph to a third of the window, if it is not well in view.
  reveal(what, jump = false) {
    const para = what.para ?? what;
    this.fill(para);
    const node = what.el ?? para.node;
    if (!node?.isConnected) return;
    let box = node.getBoundingClientRect();
    if (box.top > innerHeight * 0.16 && box.bottom < innerHeight * 0.64) return;
    const isFar = Math.abs(box.top - innerHeight / 3) > 1.5 * innerHeight;
    const isStill = jump || isFar || matchMedia("(prefers-reduced-motion: reduce)").matches;
    // Paragraphs that were never drawn have guessed heights: go there first, then put it right.
    if (isStill) node.scrollIntoView({ block: "center", behavior: "instant" });
    box = node.getBoundingClientRect();
    scrollBy({ top: box.top - innerHeight * 0.32, behavior: isStill ? "instant" : "smooth" });
  }

  // Keyboard: the text is one tab stop; arrows walk paragraphs and words.

  rove(i) {
    const old = this.paras[this.roving];
    if (old?.at) old.at.tabIndex = -1;
    this.roving = Math.max(0, i);
    const now = this.paras[this.roving];
    if (now?.at) now.at.tabIndex = 0;
  }

  point(word) {
    this.cursor = word ? word.i : -1;
    this.mark("cursor", word ? [word] : []);
    if (word) this.rove(word.para.i);
  }

  walkParagraphs(step) {
    this.rove(Math.min(this.paras.length - 1, Math.max(0, this.roving + step)));
    const para = this.paras[this.roving];
    if (!para?.at) return;
    para.at.focus({ preventScroll: true });
    this.reveal(para);
    this.point(null);
    this.announce(para.p.textContent);
  }

  walkWords(step) {
    const words = this.paras[this.roving].segments.flatMap((segment) => segment.words);
    if (!words.length) return;
    const here = words.findIndex((word) => word.i === this.cursor);
    const next = here < 0 ? 0 : Math.max(0, Math.min(words.length - 1, here + step));
    this.point(words[next]);
    this.reveal(words[next]);
    this.announce(words[next].word.trim());
  }

  announce(words) {
    this.live.textContent = words;
  }
}
