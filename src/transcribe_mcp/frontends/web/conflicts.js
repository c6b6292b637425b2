// Sentences that were changed here and in another window: both versions are shown below the
// sentence until the user chooses.
import { plain } from "./segments.js";
import { button, counted, el, say } from "./ui.js";

// "2 minutes ago"
function ago(time) {
  const minutes = Math.round((Date.now() - Date.parse(time)) / 60000);
  if (!(minutes >= 1)) return "just now";
  if (minutes < 90) return `${counted(minutes, "minute")} ago`;
  return `${counted(Math.round(minutes / 60), "hour")} ago`;
}

// The words of a text; those missing in the other one are highlighted.
export function versus(text, other, tag) {
  const has = new Set(other.split(" "));
  const words = text
    .split(" ")
    .map((word) => (has.has(word) ? word : el(tag, { textContent: word })));
  return el("p", { dir: "auto" }, ...words.flatMap((word) => [word, " "]));
}

export const textOf = (segments) => plain(segments.map(({ text }) => text).join(" "));
const speakersOf = (segments) => [...new Set(segments.map(({ speaker }) => speaker))].join(", ");

export class Conflicts {
  constructor(text, edits) {
    Object.assign(this, { text, edits });
    this.boxes = new Map(); // the first segment of the server's version -> panel
    text.drawn.push(() => this.draw());
    edits.drawn.push(() => this.draw());
  }

  draw() {
    const now = new Map(this.edits.conflicts.map((each) => [each.theirs[0], each]));
    for (const [segment, box] of this.boxes) {
      if (now.has(segment)) continue;
      box.remove();
      this.boxes.delete(segment);
    }
    for (const [segment, conflict] of now) {
      const box = this.boxes.get(segment) ?? this.panel();
      this.boxes.set(segment, box);
      this.fill(box, conflict);
      const { node } = this.text.paraOf(conflict.at);
      if (box.parentNode !== node) node.append(box);
    }
  }

  panel() {
    return el(
      "section",
      { className: "banner", role: "alert" },
      el("h2", { textContent: "This sentence was also changed in another window" }),
      el("p", {
        textContent:
          "Both versions are kept here until you choose. The rest of your edits are safe.",
      }),
      el("div", { className: "versions" }),
    );
  }

  fill(box, conflict) {
    const { theirs, mine } = conflict;
    const texts = [textOf(mine), textOf(theirs)];
    const names = [speakersOf(mine), speakersOf(theirs)];
    const key = [...texts, ...names].join("\n");
    box.choose = (act, words) => {
      act(conflict);
      say(words);
      this.text.focus(this.text.paraOf(conflict.at));
    };
    if (box.shown === key) return;
    box.shown = key;
    const isOther = names[0] !== names[1];
    const part = (head, i, tag, act) =>
      el(
        "div",
        {},
        el("h3", { textContent: isOther && names[i] ? `${head} · ${names[i]}` : head }),
        versus(texts[i], texts[1 - i], tag),
        el("div", { className: "row" }, act),
      );
    const keep = button("Keep mine", "main", () =>
      box.choose((each) => this.edits.keepMine(each), "Your version was kept"),
    );
    const take = button("Use the other", "line", () =>
      box.choose((each) => this.edits.takeTheirs(each), "The other version was used"),
    );
    box.lastChild.replaceChildren(
      part("Yours", 0, "ins", keep),
      part(`The other, ${ago(this.edits.heldSince)}`, 1, "del", take),
    );
  }

  // Shows the first one; false if there is none.
  go() {
    const [conflict] = this.edits.conflicts;
    if (!conflict) return false;
    const para = this.text.paraOf(conflict.at);
    this.text.rove(para.i);
    this.text.reveal(para, true);
    this.boxes.get(conflict.theirs[0])?.querySelector("button").focus({ preventScroll: true });
    return true;
  }
}
