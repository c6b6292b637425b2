// Keys of the transcript. Open dialogs, menus and fields take theirs first.

const FIELDS = "input:not([type=range]):not([type=checkbox]):not([type=radio]), textarea, select";

// "Ctrl+Alt+x" for an event. With Option, a Mac types another letter, so the position of the key
// counts.
function nameOf({ key, code, ctrlKey, metaKey, altKey }) {
  const letter = altKey && code.startsWith("Key") ? code.slice(3) : key;
  const name = letter.length === 1 ? letter.toLowerCase() : letter;
  return `${ctrlKey || metaKey ? "Ctrl+" : ""}${altKey ? "Alt+" : ""}${name}`;
}

function inText({ text, sound, editor }, { target }) {
  const { cursor, words } = text;
  const play = cursor < 0 ? undefined : () => sound.playFrom(words[cursor].start);
  const isPlace = target.matches(".at");
  const enter =
    editor.isOn && isPlace ? () => editor.enterPara(target.closest(".turn").para) : play;
  return {
    ArrowDown: () => text.walkParagraphs(1),
    ArrowUp: () => text.walkParagraphs(-1),
    ArrowRight: () => text.walkWords(1),
    ArrowLeft: () => text.walkWords(-1),
    Enter: enter,
  };
}

function everywhere(page) {
  const { sound, doubts, edits } = page;
  return {
    "Alt+ArrowLeft": () => sound.skip(-5),
    "Alt+ArrowRight": () => sound.skip(5),
    "Alt+r": () => sound.replay(),
    "Alt+n": () => doubts.next(),
    "Alt+s": () => page.speakerHere(),
    "Ctrl+s": () => edits.save(),
    "Ctrl+g": () => page.goTo(),
  };
}

function outsideFields(page) {
  const { sound, find, doubts, editor } = page;
  return {
    " ": () => sound.toggle(),
    Escape: () => sound.toggle(),
    k: () => sound.toggle(),
    j: () => sound.skip(-10),
    l: () => sound.skip(10),
    ArrowLeft: () => sound.skip(-5),
    ArrowRight: () => sound.skip(5),
    "<": () => sound.faster(-1),
    ">": () => sound.faster(1),
    "/": () => find.open(),
    u: () => doubts.show(!doubts.isShown),
    f: () => sound.follow(true, true),
    e: () => editor.turn(!editor.isOn),
    s: () => page.speakerHere(),
    "?": () => page.help(),
  };
}

// Undo and redo. In an edited sentence, the browser has its own.
function history(event, name, editor) {
  if (editor.span && editor.wasTyped) return undefined;
  if (name === "Ctrl+y") return () => editor.undo(false);
  return name === "Ctrl+z" ? () => editor.undo(!event.shiftKey) : undefined;
}

// Space and Enter press a button that has the focus; arrows move in sliders and choices.
function isTaken(event, name) {
  const at = event.target;
  if (name === " ") return at.closest("button, a, summary, input");
  return name.startsWith("Arrow") && at.closest("[popover], input, .seg");
}

// Tab leaves the text, except from the buttons below a sentence.
function leave(event, text) {
  const turn = event.target.closest(".turn");
  if (event.target === text.root && !event.shiftKey) {
    event.preventDefault();
    text.focus(text.paras[text.roving]);
  }
  if (!turn) return;
  const stops = [...turn.querySelectorAll(".banner button")];
  const here = stops.indexOf(event.target);
  const isInside = event.shiftKey ? here >= 0 : here < stops.length - 1;
  if (!isInside) text.tab(event.shiftKey);
}

export function listen(page) {
  const { sound, editor } = page;
  const global = everywhere(page);
  const plain = outsideFields(page);
  addEventListener("keydown", (event) => {
    const { target } = event;
    if (event.defaultPrevented || !target.closest) return undefined;
    if (document.querySelector("dialog[open], :popover-open")) return undefined;
    const name = nameOf(event);
    if (name === "Tab") return leave(event, page.text);
    let act = global[name];
    if (!act && target.closest(FIELDS)) return undefined;
    act ??= history(event, name, editor);
    if (!act && target === editor.span) return editor.key(event);
    if (!act && target.closest(".turn") && !target.closest(".banner")) {
      act = inText(page, event)[name];
      if (act && name.startsWith("Arrow")) sound.follow(false);
    }
    if (!act && !isTaken(event, name)) act = plain[name];
    if (!act) return undefined;
    event.preventDefault();
    return void act();
  });
}
