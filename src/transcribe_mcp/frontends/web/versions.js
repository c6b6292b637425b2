// History: earlier versions of the transcript, and restoring them.
import { get, jobPath, send } from "./api.js";
import { isEqual, merged, pairs } from "./changes.js";
import { textOf, versus } from "./conflicts.js";
import { timed } from "./segments.js";
import { $, button, clock, counted, day, el, say } from "./ui.js";

const SHOWN = 20; // sentences of a comparison

const clockTime = (time) =>
  new Date(time).toLocaleTimeString("en", { timeStyle: "medium", hourCycle: "h23" });

function line(label, text) {
  text.prepend(el("span", { className: "quiet num", textContent: label }), " ");
  return text;
}

export class Versions {
  // Args: `restored`, called with the document of the restored version.
  constructor(jobId, edits, restored) {
    Object.assign(this, { jobId, edits, restored });
  }

  async open() {
    await this.edits.save();
    let revisions;
    try {
      ({ revisions } = await get(jobPath(this.jobId, "/revisions")));
    } catch (error) {
      return say(error.message);
    }
    const rows = revisions.map((each, i) => this.row(each, i === 0));
    $("#versions-list").replaceChildren(...rows);
    $("#versions").showModal();
    return undefined;
  }

  row({ revision, created_at: at }, isNow) {
    const name = revision ? `${day(at)}, ${clockTime(at)}` : "Original";
    if (isNow) {
      const now = el("span", { className: "quiet", textContent: "Current" });
      return el("li", {}, el("span", { className: "num", textContent: name }), now);
    }
    const box = el("div", { "aria-live": "polite" });
    const more = el("details", {}, el("summary", { className: "num", textContent: name }), box);
    more.addEventListener("toggle", () => box.firstChild || this.compare(revision, box), {
      once: true,
    });
    const back = button("Restore", "line", () => this.restore(revision, name));
    back.setAttribute("aria-label", `Restore: ${name}`);
    return el("li", {}, more, back);
  }

  // Shows the sentences in which a version differs, with its removed words.
  async compare(revision, box) {
    let doc;
    try {
      doc = await get(jobPath(this.jobId, "/transcript"), { revision: String(revision) });
    } catch (error) {
      box.replaceChildren(el("p", { className: "quiet", textContent: error.message }));
      return;
    }
    const now = this.edits.base;
    const then = merged(now, now, doc.segments.map(timed)).base;
    const runs = pairs(then, now).filter(({ theirs, mine }) => !isEqual(theirs, mine));
    const n = counted(runs.length, "sentence differs", "sentences differ");
    box.replaceChildren(
      el("p", {
        className: "quiet",
        textContent: runs.length ? `${n} from the current version.` : "Same as the current version.",
      }),
      ...runs.slice(0, SHOWN).flatMap(({ theirs, mine }) => {
        const texts = [textOf(theirs), textOf(mine)];
        const isText = texts[0] !== texts[1];
        return [
          line(clock(theirs[0].start), versus(texts[0], texts[1], "del")),
          isText && line("Current", versus(texts[1], texts[0], "ins")),
        ].filter(Boolean);
      }),
    );
  }

  async restore(revision, name) {
    const path = jobPath(this.jobId, `/revisions/${revision}/restore`);
    try {
      if (this.edits.isDirty)
        throw new Error("Some edits are not saved yet. Try again after that.");
      await this.restored(await send("POST", path));
    } catch (error) {
      say(error.message);
      return;
    } finally {
      $("#versions").close();
    }
    say(revision ? `Restored the version of ${name}` : "Restored the original");
  }
}
