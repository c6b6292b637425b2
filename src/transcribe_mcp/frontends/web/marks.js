// Marks on words: the spoken one, hits of find, doubts. They change no element of the text. Without
// the Custom Highlight API, words get a class instead.

const PRIORITY = { doubt: 0, found: 0, "found-now": 2, cursor: 1, spoken: 3 };

// The word without punctuation at its edges.
function rangeOf(word) {
  const node = word.el.firstChild;
  const [, before, core] = node.data.match(/^([\s\p{P}]*)(.*?)[\s\p{P}]*$/su);
  const start = core ? before.length : 0;
  const end = core ? start + core.length : node.data.length;
  return new StaticRange({
    startContainer: node,
    startOffset: start,
    endContainer: node,
    endOffset: end,
  });
}

export class Marks {
  constructor() {
    this.highlights = null;
    this.marked = new Map();
    this.near = new Map(); // name -> the words of a paragraph that have the mark
    if (!globalThis.Highlight || !CSS.highlights) return;
    this.highlights = new Map();
    for (const [name, priority] of Object.entries(PRIORITY)) {
      const highlight = new Highlight();
      highlight.priority = priority;
      CSS.highlights.set(name, highlight);
      this.highlights.set(name, highlight);
    }
  }

  // Words need an element, so their paragraph is filled.
  set(name, words) {
    if (!this.highlights) return this.setClass(name, words);
    const highlight = this.highlights.get(name);
    highlight.clear();
    for (const word of words) if (word.el?.firstChild) highlight.add(rangeOf(word));
  }

  setClass(name, words) {
    for (const word of this.marked.get(name) ?? []) word.el?.classList.remove(`mark-${name}`);
    for (const word of words) word.el?.classList.add(`mark-${name}`);
    this.marked.set(name, words);
  }

  // A mark on many words is drawn only in paragraphs near the window.
  setNear(name, wordsOf, paras) {
    if (wordsOf) this.near.set(name, wordsOf);
    else this.near.delete(name);
    this.set(name, wordsOf ? paras.flatMap(wordsOf) : []);
  }

  moved(paras) {
    for (const [name, wordsOf] of this.near) this.set(name, paras.flatMap(wordsOf));
  }
}
