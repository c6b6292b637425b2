// The history: earlier versions of the transcript, and the way back to them.
import { get, jobPath, send } from "./api.js";
import { $, button, day, el, say } from "./ui.js";

const time = (seconds) =>
  new Date(seconds * 1000).toLocaleTimeString("en", { timeStyle: "medium", hourCycle: "h23" });

export class Versions {
  // Args: `restored`, called with the document of the version that came back.
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
    const name = revision ? `${day(at)}, ${time(at)}` : "As it was transcribed";
    const back = button("Restore", "line", () => this.restore(revision, name));
    back.setAttribute("aria-label", `Restore: ${name}`);
    return el(
      "li",
      {},
      el("span", { className: "num", textContent: name }),
      isNow ? el("span", { className: "quiet", textContent: "Now" }) : back,
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
    say(revision ? `Back to the version of ${name}` : "Back to the first version");
  }
}
