// The text: segments of the document as paragraphs of words. A paragraph far from the window holds
// plain text; it gets an element for each word when it comes near.
import { clock, el } from "./elements.js";
import { Marks } from "./marks.js";
import { isSame, paragraphs, plain, timed } from "./segments.js";

const CHUNK = 80; // paragraphs made in one go, so that long transcripts do not block the page

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
    this.end = root.nextElementSibling;
    this.isLeaving = false;
    for (const edge of [root, this.end]) edge?.addEventListener("focus", () => this.enter(edge));
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
    const paras = this.regroup();
    const drawing = ++this.drawing;
    const alive = new Set(paras);
    let built = 0;
    for (const para of paras) {
      if (!para.node && ++built % CHUNK === 0) await pause();
      if (drawing !== this.drawing) return;
      this.place(para, alive);
    }
    this.finish();
  }

  // Shows other segments at once. `held`: the sentence being edited; with the same text it keeps
  // its words' elements.
  change(segments, held = null) {
    const old = this.segments;
    const isSameShape =
      segments.length === old.length &&
      segments.every(({ speaker }, i) => speaker === old[i].speaker);
    this.segments = segments;
    this.drawing++;
    if (isSameShape) {
      this.index();
      for (const para of this.paras) this.exchange(para, held);
    } else {
      this.keepingFocus(() => {
        const paras = this.regroup();
        const alive = new Set(paras);
        for (const para of paras) this.place(para, alive);
        this.trim();
      });
    }
    this.finish();
  }

  // The paragraph that has the focus may get new elements.
  keepingFocus(act) {
    const focused = document.activeElement;
    const at = focused.matches(".turn .at, .turn .who") && focused.closest(".turn").para.from;
    act();
    if (at === false || focused.isConnected) return;
    const para = this.paraOf(at);
    this.rove(para.i);
    para.at.focus({ preventScroll: true });
  }

  trim() {
    while (this.root.children.length > this.paras.length) this.drop(this.root.lastChild);
  }

  finish() {
    this.trim();
    this.rove(Math.min(this.roving, this.paras.length - 1));
    this.redraw();
  }

  redraw() {
    for (const call of this.drawn) call();
  }

  // Paragraphs of the segments. One that has the same words as before keeps its elements.
  regroup() {
    this.index();
    const kept = new Map(this.paras.map((para) => [para.segments[0].words, para]));
    let speaker;
    let from = 0;
    this.paras = paragraphs(this.segments).map((segments, i) => {
      const opens = segments[0].speaker !== speaker;
      speaker = segments[0].speaker;
      const old = kept.get(segments[0].words);
      const isKept =
        old?.segments.length === segments.length &&
        segments.every(({ words }, k) => words === old.segments[k].words);
      const para = isKept ? old : { node: null, isFilled: false };
      Object.assign(para, { segments, opens, from, i });
      if (para.node) this.label(para);
      for (const segment of segments) for (const word of segment.words) word.para = para;
      from += segments.length;
      return para;
    });
    return this.paras;
  }

  // Other segments in the same places of a paragraph.
  exchange(para, held) {
    let isStale = false;
    for (const [k, old] of para.segments.entries()) {
      const segment = this.segments[para.from + k];
      if (segment === old) continue;
      para.segments[k] = segment;
      if (segment.words === old.words) continue;
      for (const word of segment.words) word.para = para;
      isStale = true;
      const isHeld = held && para.spans?.[k] === held;
      const isThere = isHeld && plain(held.textContent) === plain(segment.text);
      if (para.isFilled && !isThere) this.write(para.spans[k], segment);
    }
    if (isStale && para.node && !para.isFilled) this.writePlain(para);
  }

  // Puts a paragraph in its place; that of an old one, so that the page does not jump.
  place(para, alive) {
    if (!para.node) this.build(para);
    const here = this.root.children[para.i] ?? null;
    if (here === para.node) return;
    this.root.insertBefore(para.node, here);
    if (here && !alive.has(here.para)) this.drop(here);
  }

  drop(node) {
    this.observer.unobserve(node);
    this.near.delete(node.para);
    node.remove();
  }

  index() {
    const pointed = this.words[this.cursor];
    this.words = this.segments.flatMap((segment) => segment.words);
    this.words.forEach((word, i) => (word.i = i));
    this.cursor = pointed && this.words[pointed.i] === pointed ? pointed.i : -1;
  }

  build(para) {
    const node = el("section", {});
    const at = el("button", { className: "at", type: "button", tabIndex: -1 });
    const side = el("div", { className: "side" }, at);
    const p = el("p", { dir: "auto", lang: para.segments[0].language ?? this.doc.language });
    node.append(side, p);
    node.para = para;
    Object.assign(para, { node, side, p, at });
    this.label(para);
    this.writePlain(para);
    this.observer.observe(node);
  }

  // Time and speaker of a paragraph.
  label(para) {
    const { speaker, start } = para.segments[0];
    const words = `Play from ${clock(start)}${speaker ? `, ${speaker}` : ""}`;
    const label = `${para.opens} ${words}`;
    if (para.labelled === label) return;
    para.labelled = label;
    const { node, side, at } = para;
    node.className = para.opens ? "turn first-of" : "turn";
    if (speaker) node.dataset.who = this.colour(speaker);
    else delete node.dataset.who;
    at.textContent = clock(start);
    at.setAttribute("aria-label", words);
    const who = side.querySelector(".who");
    if (!speaker || !para.opens) who?.remove();
    else if (who) who.textContent = speaker;
    else
      side.prepend(
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

  writePlain(para) {
    para.p.textContent = para.segments.map(({ text }, i) => (i ? text : text.trimStart())).join("");
  }

  // Makes an element for each sentence and each word; the text stays the same.
  fill(para) {
    if (para.isFilled || !para.node) return;
    para.isFilled = true;
    const parts = [];
    para.spans = para.segments.map((segment, k) => {
      const span = el("span", { className: "s" });
      span.at = k;
      this.write(span, segment);
      if (k && !/^\S/u.test(segment.text)) parts.push(" ");
      parts.push(span);
      return span;
    });
    para.p.replaceChildren(...parts);
  }

  write(span, segment) {
    const parts = [];
    for (const word of segment.words) {
      const text = word.word.trimStart();
      if (parts.length && text !== word.word) parts.push(" ");
      word.el = el("span", { className: "w", textContent: text });
      word.el.word = word;
      parts.push(word.el);
    }
    span.replaceChildren(...parts);
  }

  // The paragraph of a segment, by its position; and the element of the segment.
  paraOf(at) {
    return this.paras.findLast(({ from }) => from <= at);
  }

  sentence(at) {
    const para = this.paraOf(at);
    this.fill(para);
    return para.spans[at - para.from];
  }

  positionOf(span) {
    return span.closest(".turn").para.from + span.at;
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
    // Paragraphs that were never drawn have estimated heights: scroll there first, then correct.
    if (isStill) node.scrollIntoView({ block: "center", behavior: "instant" });
    box = node.getBoundingClientRect();
    scrollBy({ top: box.top - innerHeight * 0.32, behavior: isStill ? "instant" : "smooth" });
  }

  // Keyboard: the text is one tab stop; arrow keys move by paragraph and word.

  rove(i) {
    const old = this.paras[this.roving];
    if (old?.at) old.at.tabIndex = -1;
    this.roving = Math.max(0, i);
    const now = this.paras[this.roving];
    if (now?.at) now.at.tabIndex = 0;
  }

  focus(para) {
    if (!para?.at) return;
    this.rove(para.i);
    para.at.focus({ preventScroll: true });
    this.reveal(para);
  }

  // Tab leaves the text from its end. The browser would look for the next stop in each paragraph,
  // and would lay out all of them for that.
  tab(isBack) {
    this.isLeaving = true;
    (isBack ? this.root : this.end)?.focus({ preventScroll: true });
    this.isLeaving = false;
  }

  // Tab enters at either end.
  enter(edge) {
    const isByKey = edge.matches(":focus-visible") && !this.isLeaving;
    if (isByKey) this.focus(this.paras[this.roving]);
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
