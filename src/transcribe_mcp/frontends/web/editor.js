// Typing in the text: one sentence is editable at a time, and arrow keys move the caret to others.
import { countBefore, join, plain, retime, split } from "./segments.js";
import { clock, say } from "./ui.js";

const MAX_LETTERS = 5000; // of a sentence, as the server has it

export class Editor {
  constructor(text, sound, edits, { root, button }) {
    Object.assign(this, { text, sound, edits, root, button });
    this.isOn = false;
    this.span = null; // the sentence that is typed in
    this.isTyped = false; // and its text is not in the segments yet
    this.wasTyped = false;
    edits.editor = this;
    button.onclick = () => this.turn(!this.isOn);
    root.addEventListener("pointerdown", (event) => this.pressed(event));
    root.addEventListener("focusout", (event) => event.target === this.span && this.leave());
    root.addEventListener("input", () => this.typed());
    root.addEventListener("beforeinput", (event) => this.limit(event));
  }

  // The position of the sentence being edited.
  get at() {
    return this.text.positionOf(this.span);
  }

  turn(on) {
    if (!this.edits.isOn) return;
    this.isOn = on;
    this.root.dataset.mode = on ? "edit" : "read";
    this.button.setAttribute("aria-pressed", String(on));
    if (!on) return this.leave();
    const isByKey = !this.root.contains(document.activeElement);
    if (isByKey) this.text.announce("Editing. Press Enter in the text to edit a sentence.");
  }

  pressed(event) {
    if (!this.isOn || event.button || event.ctrlKey || event.metaKey) return;
    const span = event.target.closest(".s");
    if (span) this.enter(span);
  }

  // Makes a sentence editable; `place`: where to put the caret, -1 is its end.
  enter(span, place) {
    if (this.span !== span) {
      this.leave();
      span.contentEditable = "plaintext-only";
      span.spellcheck = true;
      span.setAttribute("role", "textbox");
      span.setAttribute("aria-multiline", "false");
      const at = this.text.positionOf(span);
      const { start } = this.text.segments[at];
      span.setAttribute("aria-label", `Sentence at ${clock(start)}`);
      this.span = span;
      this.wasTyped = false;
      this.step = null;
      this.text.rove(span.closest(".turn").para.i);
      this.text.point(null);
    }
    if (place === undefined) return;
    span.focus({ preventScroll: true });
    this.putCaret(place);
    this.sound.follow(false);
    this.text.reveal({ el: span, para: span.closest(".turn").para });
  }

  enterAt(at, place) {
    if (at >= 0 && at < this.text.segments.length) this.enter(this.text.sentence(at), place);
  }

  // Edits the sentence of the selected word, or the first one of a paragraph.
  enterPara(para) {
    const word = this.text.words[this.text.cursor];
    if (word?.para !== para) return this.enterAt(para.from, 0);
    const k = para.segments.findIndex(({ words }) => words.includes(word));
    const span = this.text.sentence(para.from + k);
    const before = document.createRange();
    before.selectNodeContents(span);
    before.setEndBefore(word.el);
    return this.enter(span, before.toString().length);
  }

  leave() {
    const { span } = this;
    if (!span) return;
    const { at, wasTyped } = this;
    this.span = null;
    for (const name of ["contenteditable", "role", "aria-label", "aria-multiline", "spellcheck"]) {
      span.removeAttribute(name);
    }
    if (!wasTyped) return;
    this.isTyped = false;
    const isNew = this.put(at, span.textContent);
    this.step = null;
    if (isNew) return;
    this.text.write(span, this.text.segments[at]);
    this.text.redraw();
  }

  typed() {
    this.isTyped = true;
    this.wasTyped = true;
    this.edits.queue();
  }

  // Copies the typed text into the segments. The sentence keeps its element and the caret.
  take() {
    if (!this.span || !this.isTyped) return;
    this.isTyped = false;
    this.put(this.at, this.span.textContent);
  }

  put(at, typed) {
    const old = this.text.segments[at];
    if (plain(typed) === plain(old.text)) return false;
    this.step = this.edits.change([{ at, old: [old], fresh: [retime(old, typed)] }], this.step);
    return true;
  }

  // Runs a change of the text and keeps the caret in the same sentence.
  keepingCaret(act) {
    const { span } = this;
    if (!span) return act(null);
    const { at } = this;
    const { start } = this.text.segments[at];
    const place = this.caret();
    const hadFocus = document.activeElement === span;
    this.span = null; // its element may go, which is not leaving
    act(span);
    this.span = span;
    if (span.isConnected) {
      if (hadFocus && this.caret() !== place) this.putCaret(place);
      return undefined;
    }
    this.span = null;
    const now = this.text.segments.findLastIndex((segment) => segment.start <= start);
    if (hadFocus) this.enterAt(Math.max(0, now), place);
    return undefined;
  }

  limit(event) {
    if (/^insert(Paragraph|LineBreak)$/u.test(event.inputType)) {
      event.preventDefault(); // a keyboard on glass tells no key
      if (this.span) this.split();
      return;
    }
    const more = event.data ?? event.dataTransfer?.getData("text/plain") ?? "";
    if (!this.span || !event.inputType.startsWith("insert")) return;
    if (this.span.textContent.length + more.length <= MAX_LETTERS) return;
    event.preventDefault();
    say("A sentence has at most 5,000 letters. Press Enter to split it first.");
  }

  // --- the caret ----------------------------------------------------------------------------------

  putCaret(place) {
    const { span } = this;
    const walker = document.createTreeWalker(span, NodeFilter.SHOW_TEXT);
    let left = place < 0 ? span.textContent.length : place;
    for (let node = walker.nextNode(); node; node = walker.nextNode()) {
      if (left <= node.data.length) return getSelection().collapse(node, left);
      left -= node.data.length;
    }
    getSelection().selectAllChildren(span);
    return getSelection().collapseToEnd();
  }

  // Letters before the caret.
  caret() {
    const selection = getSelection();
    if (!selection.rangeCount || !this.span.contains(selection.anchorNode)) return 0;
    const here = selection.getRangeAt(0);
    const before = document.createRange();
    before.selectNodeContents(this.span);
    before.setEnd(here.startContainer, here.startOffset);
    return before.toString().length;
  }

  // --- keys ---------------------------------------------------------------------------------------

  key(event) {
    if (event.isComposing) return;
    const { at, span } = this;
    const isPoint = getSelection().isCollapsed;
    const isFirst = isPoint && this.caret() === 0;
    const isLast = isPoint && this.caret() >= span.textContent.length;
    const acts = {
      Escape: () => this.sound.toggle(),
      Enter: () => this.split(),
      Backspace: isFirst && at > 0 ? () => this.merge(at - 1) : null,
      Delete: isLast && at + 1 < this.text.segments.length ? () => this.merge(at) : null,
      ArrowRight: isLast ? () => this.enterAt(at + 1, 0) : null,
      ArrowLeft: isFirst ? () => this.enterAt(at - 1, -1) : null,
      ArrowDown: () => this.line(1),
      ArrowUp: () => this.line(-1),
    };
    const act = event.shiftKey && event.key.startsWith("Arrow") ? null : acts[event.key];
    if (act && act() !== false) event.preventDefault();
  }

  // Moves one line down or up, possibly to another sentence. False: the browser moves the caret.
  line(step) {
    const { at, span } = this;
    const box = this.caretBox();
    const height = parseFloat(getComputedStyle(span).lineHeight);
    const y = step > 0 ? box.bottom + height / 2 : box.top - height / 2;
    const spot = document.caretPositionFromPoint?.(box.left, y);
    const there = spot?.getClientRect()?.top ?? y;
    // Without another line, the nearest place is in this one.
    const isLine = step * (there - box.top) > height / 2;
    const other = isLine ? spot?.offsetNode.parentElement?.closest(".s") : null;
    if (other === span) return false;
    if (!other) return this.enterAt(at + step, step > 0 ? 0 : -1);
    const { offsetNode, offset } = spot;
    this.enter(other, 0);
    if (offsetNode.isConnected) getSelection().collapse(offsetNode, offset);
    return undefined;
  }

  caretBox() {
    const range = getSelection().getRangeAt(0);
    const box = range.getBoundingClientRect();
    return box.height ? box : this.span.getBoundingClientRect();
  }

  split() {
    const { at } = this;
    const letters = this.caret();
    this.leave();
    const segment = this.text.segments[at];
    const n = countBefore(segment, letters);
    if (n <= 0 || n >= segment.words.length) return this.enterAt(at, letters);
    this.edits.change([{ at, old: [segment], fresh: split(segment, n) }]);
    return this.enterAt(at + 1, 0);
  }

  // Joins the sentence at a position with the next one.
  merge(at) {
    this.leave();
    const old = this.text.segments.slice(at, at + 2);
    const place = this.text.sentence(at).textContent.length;
    this.edits.change([{ at, old, fresh: [join(old)] }]);
    this.enterAt(at, place);
  }

  undo(isBack) {
    const wasHere = this.span !== null;
    this.leave();
    const at = this.edits.undo(isBack);
    if (at < 0) return say(isBack ? "Nothing to undo" : "Nothing to redo");
    if (wasHere) this.enterAt(at, -1);
    else this.text.reveal(this.text.paraOf(at));
    return undefined;
  }
}
