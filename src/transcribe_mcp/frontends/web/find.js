// Find in this transcript, and the doubtful words.

const DOUBT = 0.6; // words below this probability

const TYPING_MS = 80;

const plain = (text) =>
  text
    .toLocaleLowerCase()
    .normalize("NFKD")
    .replace(/[\p{M}\p{P}]/gu, "")
    .trim();

// Words that match the query; its last word may be the start of one.
export function hits(words, query) {
  const wanted = plain(query).split(/\s+/).filter(Boolean);
  if (!wanted.length) return { starts: [], length: 0 };
  const last = wanted.length - 1;
  const texts = words.map((word) => (word.plain ??= plain(word.word)));
  const starts = [];
  for (let i = 0; i + last < texts.length; i++) {
    const isHit = last
      ? wanted.every((part, k) =>
          k < last ? texts[i + k] === part : texts[i + k].startsWith(part),
        )
      : texts[i].includes(wanted[0]);
    if (isHit) starts.push(words[i]);
  }
  return { starts, length: wanted.length };
}

export class Find {
  constructor(text, sound, wave, parts) {
    Object.assign(this, { text, sound, wave, parts });
    this.found = [];
    this.at = -1;
    const { bar, input } = parts;
    parts.open.onclick = () => this.open();
    parts.close.onclick = () => this.close();
    parts.previous.onclick = () => this.step(-1);
    parts.next.onclick = () => this.step(1);
    let typing;
    input.oninput = () => {
      clearTimeout(typing);
      typing = setTimeout(() => this.search(input.value), TYPING_MS);
    };
    bar.addEventListener("keydown", (event) => this.key(event));
    text.drawn.push(() => !bar.hidden && this.search(input.value, false));
  }

  open() {
    this.parts.bar.hidden = false;
    this.parts.input.focus();
    this.parts.input.select();
    if (this.parts.input.value) this.search(this.parts.input.value);
  }

  close() {
    this.parts.bar.hidden = true;
    this.search("");
    this.parts.open.focus();
  }

  key(event) {
    const { key, target } = event;
    if (key === "Escape") this.close();
    else if (key === "Enter" && target === this.parts.input) this.step(event.shiftKey ? -1 : 1);
    else return;
    event.preventDefault();
    event.stopPropagation();
  }

  search(query, goes = true) {
    const { starts, length } = hits(this.text.words, query);
    this.found = starts;
    this.length = length;
    const isFound = new Uint8Array(this.text.words.length);
    for (const word of starts) isFound.fill(1, word.i, word.i + length);
    const wordsOf = ({ segments }) =>
      segments.flatMap((segment) => segment.words.filter((word) => isFound[word.i]));
    this.text.markNear("found", starts.length ? wordsOf : null);
    this.text.mark("found-now", []);
    this.wave.setFound(starts);
    this.at = -1;
    if (goes && starts.length) this.step(1);
    else this.count();
  }

  step(by) {
    if (!this.found.length) return;
    this.at = (this.at + by + this.found.length) % this.found.length;
    const word = this.found[this.at];
    this.text.mark("found-now", this.text.words.slice(word.i, word.i + this.length));
    this.sound.follow(false);
    this.text.reveal(word);
    this.count();
  }

  count() {
    const { input, output } = this.parts;
    const n = this.found.length.toLocaleString("en");
    if (this.found.length) output.textContent = `${(this.at + 1).toLocaleString("en")} of ${n}`;
    else output.textContent = input.value.trim() && !this.parts.bar.hidden ? "not found" : "";
  }
}

export class Doubts {
  constructor(text, sound, parts) {
    Object.assign(this, { text, sound, parts });
    this.isShown = false;
    parts.check.onchange = () => this.show(parts.check.checked);
    parts.next.onclick = () => this.next();
    text.drawn.push(() => this.draw());
  }

  isDoubtful(word) {
    return word.probability !== null && word.probability < DOUBT;
  }

  draw() {
    const n = this.text.words.filter(this.isDoubtful).length;
    this.parts.count.textContent = n.toLocaleString("en");
    this.parts.section.hidden = !n;
    this.show(this.isShown);
  }

  show(on) {
    this.isShown = on;
    this.parts.check.checked = on;
    this.parts.next.hidden = !on;
    const wordsOf = ({ segments }) =>
      segments.flatMap((segment) => segment.words.filter(this.isDoubtful));
    this.text.markNear("doubt", on ? wordsOf : null);
  }

  next() {
    const doubts = this.text.words.filter(this.isDoubtful);
    if (!doubts.length) return;
    if (!this.isShown) this.show(true);
    const word = doubts.find((each) => each.i > this.text.cursor) ?? doubts[0];
    this.text.point(word);
    this.sound.follow(false);
    this.text.reveal(word);
  }
}
