// Keys of the transcript. Open dialogs, menus and fields take theirs first.

const FIELDS = "input:not([type=range]):not([type=checkbox]):not([type=radio]), textarea, select";

// "Ctrl+Alt+x" for an event. With Option a Mac types another letter: the key's place tells which.
function nameOf({ key, code, ctrlKey, metaKey, altKey }) {
  const letter = altKey && code.startsWith("Key") ? code.slice(3) : key;
  const name = letter.length === 1 ? letter.toLowerCase() : letter;
  return `${ctrlKey || metaKey ? "Ctrl+" : ""}${altKey ? "Alt+" : ""}${name}`;
}

function inText(text, sound) {
  const { cursor, words } = text;
  return {
    ArrowDown: () => text.walkParagraphs(1),
    ArrowUp: () => text.walkParagraphs(-1),
    ArrowRight: () => text.walkWords(1),
    ArrowLeft: () => text.walkWords(-1),
    Enter: cursor < 0 ? undefined : () => sound.playFrom(words[cursor].start),
  };
}

function everywhere(page) {
  const { sound, doubts } = page;
  return {
    "Alt+ArrowLeft": () => sound.skip(-5),
    "Alt+ArrowRight": () => sound.skip(5),
    "Alt+r": () => sound.replay(),
    "Alt+n": () => doubts.next(),
    "Ctrl+g": () => page.goTo(),
  };
}

function outsideFields(page) {
  const { sound, find, doubts } = page;
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
    s: () => page.speakerHere(),
    "?": () => page.help(),
  };
}

// Space and Enter press a button that has the focus; arrows move in sliders and choices.
function isTaken(event, name) {
  const at = event.target;
  if (name === " ") return at.closest("button, a, summary, input");
  return name.startsWith("Arrow") && at.closest("[popover], input, .seg");
}

export function listen(page) {
  const { text, sound } = page;
  const global = everywhere(page);
  const plain = outsideFields(page);
  addEventListener("keydown", (event) => {
    const { target } = event;
    if (event.defaultPrevented || !target.closest) return;
    if (document.querySelector("dialog[open], :popover-open")) return;
    const name = nameOf(event);
    let act = global[name];
    if (!act && target.closest(FIELDS)) return;
    if (!act && target.closest(".turn")) {
      act = inText(text, sound)[name];
      if (act && name.startsWith("Arrow")) sound.follow(false);
    }
    if (!act && !isTaken(event, name)) act = plain[name];
    if (!act) return;
    event.preventDefault();
    act();
  });
}
