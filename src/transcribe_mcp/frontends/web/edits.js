// Edits: changes on the page, undo and redo, and saving to the server.
import { get, jobPath, send } from "./api.js";
import { isEqual, merged, pairs, plan, taken } from "./changes.js";
import { timed } from "./segments.js";
import { keepWhile, reopen } from "./session.js";

const AUTOSAVE_MS = 900; // after the last key
const RETRY_MS = 5000;
const TIMEOUT_MS = 60000;
const WORDS = {
  saved: "Saved",
  unsaved: "Not saved yet",
  saving: "Saving…",
  failed: "Not saved, trying again",
  refused: "Not saved",
  conflict: "Choose a version",
};

export class Edits {
  // Args: `mark`, the button that shows the state; `say`, called with messages for the user.
  constructor(jobId, text, { mark, say }) {
    Object.assign(this, { jobId, text, mark, say });
    this.editor = null; // set by the editor
    this.base = []; // the segments as the server has them
    this.held = new Set(); // those of them that the reader has to choose or refuse
    this.heldSince = null;
    this.done = [];
    this.undone = [];
    this.saving = null;
    this.isOn = false;
    this.newest = 0; // the newest revision that the server has told
    this.drawn = []; // called after the state has changed
    keepWhile(() => this.isDirty);
    document.addEventListener("reopened", () => this.save());
    addEventListener("beforeunload", (event) => this.isDirty && event.preventDefault());
    document.addEventListener("visibilitychange", () => document.hidden && this.save());
  }

  // Starts with the document that the text shows.
  attach(doc) {
    this.base = this.text.segments;
    this.revision = doc.revision;
    this.isOn = true;
    this.held.clear();
    this.done = [];
    this.undone = [];
    this.show("saved");
    if (this.newest > this.revision) this.heard(this.newest);
  }

  get isDirty() {
    if (!this.isOn) return false;
    return this.editor.isTyped || this.state !== "saved";
  }

  // Segments that were changed here and elsewhere.
  get conflicts() {
    if (!this.held.size) return [];
    const all = pairs(this.base, this.text.segments);
    return all.filter(({ isShared, theirs }) => !isShared && theirs.some((s) => this.held.has(s)));
  }

  // --- changes, undo, redo ------------------------------------------------------------------------

  // A change is a list of {at, old, fresh}: segments at a position, and their replacements.
  // `step`: an earlier change of the same sentence that this one continues.
  change(patches, step = null) {
    this.apply(patches);
    this.undone = [];
    if (step && step === this.done.at(-1)) step.patches[0].fresh = patches[0].fresh;
    else this.done.push({ patches });
    this.queue();
    return this.done.at(-1);
  }

  apply(patches) {
    const segments = [...this.text.segments];
    for (const { at, old, fresh } of patches) segments.splice(at, old.length, ...fresh);
    this.editor.keepingCaret((held) => this.text.change(segments, held));
  }

  // Returns the position that changed; -1 if there was nothing.
  undo(isBack = true) {
    const step = (isBack ? this.done : this.undone).pop();
    if (!step) return -1;
    const { patches } = step;
    this.apply(
      isBack
        ? patches.map(({ at, old, fresh }) => ({ at, old: fresh, fresh: old })).reverse()
        : patches,
    );
    (isBack ? this.undone : this.done).push(step);
    this.queue();
    return patches[0].at;
  }

  // --- saving -------------------------------------------------------------------------------------

  queue(ms = AUTOSAVE_MS) {
    if (!this.saving) this.show("unsaved");
    clearTimeout(this.timer);
    this.timer = setTimeout(() => this.save(), ms);
  }

  // Sends the changes. Resolves when they are saved or have failed.
  async save() {
    clearTimeout(this.timer);
    if (!this.isOn) return;
    if (this.saving) {
      await this.saving;
      if (this.state === "unsaved") await this.save();
      return;
    }
    this.editor.take();
    const next = plan(this.base, this.text.segments, this.held);
    if (!next.ops.length) {
      if (next.swaps.size) this.rebase(this.base, next.swaps);
      this.settle();
      return;
    }
    this.show("saving");
    this.saving = this.send(next);
    const wait = await this.saving;
    this.saving = null;
    if (wait === null) this.settle();
    else if (wait) this.timer = setTimeout(() => this.save(), wait);
  }

  // Returns null if it was saved or another version came first, else the time of the next try.
  async send(next) {
    try {
      const answer = await send(
        "PATCH",
        jobPath(this.jobId, "/transcript"),
        { ops: next.ops },
        { headers: { "if-match": `"r${this.revision}"` }, signal: AbortSignal.timeout(TIMEOUT_MS) },
      );
      reopen();
      if (answer.segments.length || answer.revision !== this.revision) this.took(next, answer);
      else this.rebase(next.target, next.swaps);
      if (answer.n_segments !== undefined && answer.n_segments !== this.base.length)
        await this.meet();
      return null;
    } catch (error) {
      return this.failed(error);
    }
  }

  async failed(error) {
    if (error.status === 412) {
      try {
        await this.meet();
        return null;
      } catch (problem) {
        return this.failed(problem);
      }
    }
    const isFinal =
      error.status >= 400 && error.status < 500 && ![401, 408, 429].includes(error.status);
    this.show(isFinal ? "refused" : "failed");
    if (!isFinal) return RETRY_MS;
    this.say(error.message);
    return 0;
  }

  took(next, answer) {
    const rows = answer.segments.map(timed);
    this.revision = answer.revision;
    if (answer.speakers?.length) this.text.doc.speakers = answer.speakers;
    const map = taken(next, { ...answer, segments: rows });
    this.rebase(
      next.target.map((segment) => map.get(segment)),
      map,
    );
  }

  // The server has a new version; segments of the page that it returned are replaced.
  rebase(base, map) {
    this.base = base;
    this.held = new Set([...this.held].map((segment) => map.get(segment) ?? segment));
    this.editor.take();
    const mine = this.text.segments.map((segment) => map.get(segment) ?? segment);
    this.editor.keepingCaret((held) => this.text.change(mine, held));
  }

  // The server has this revision; if it comes from another window, it is applied at once.
  async heard(revision) {
    this.newest = revision;
    while (this.saving) await this.saving;
    if (!this.isOn || revision <= this.revision) return;
    const before = this.text.segments;
    this.saving = this.meet().then(
      () => true,
      () => false, // the next save meets it
    );
    const hasMet = await this.saving;
    this.saving = null;
    if (!hasMet) return;
    if (!isEqual(before, this.text.segments)) this.say("Changed in another window");
    this.settle();
  }

  // Another window saved first: its version and this one are merged.
  async meet() {
    const { doc, when } = await this.read();
    const theirs = doc.segments.map(timed);
    this.editor.take();
    const joined = merged(this.base, this.text.segments, theirs);
    const kept = [...this.held].filter((segment) => joined.base.includes(segment));
    if (joined.held.size) this.heldSince = when;
    this.revision = doc.revision;
    this.base = joined.base;
    this.held = new Set([...kept, ...joined.held]);
    if (!isEqual(joined.mine, this.text.segments)) {
      this.done = []; // undoing them would undo what others changed, too
      this.undone = [];
    }
    this.text.doc = doc;
    this.editor.keepingCaret((held) => this.text.change(joined.mine, held));
  }

  async read() {
    const [doc, { revisions }] = await Promise.all([
      get(jobPath(this.jobId, "/transcript")),
      get(jobPath(this.jobId, "/revisions")),
    ]);
    return { doc, when: revisions.find(({ revision }) => revision === doc.revision)?.created_at };
  }

  settle() {
    const next = plan(this.base, this.text.segments, this.held);
    if (this.editor.isTyped || next.ops.length) this.queue(next.ops.length ? 0 : AUTOSAVE_MS);
    else this.show(this.conflicts.length ? "conflict" : "saved");
  }

  // --- choosing -----------------------------------------------------------------------------------

  keepMine({ theirs }) {
    for (const segment of theirs) this.held.delete(segment);
    this.queue(0);
  }

  takeTheirs({ theirs, mine, at }) {
    for (const segment of theirs) this.held.delete(segment);
    this.change([{ at, old: mine, fresh: theirs }]);
    this.queue(0);
  }

  show(state) {
    this.state = state;
    this.mark.dataset.state = state;
    this.mark.querySelector("span").textContent = WORDS[state];
    for (const call of this.drawn) call();
  }
}
