// One recording in the list, in each of its states. The element stays; its content changes.
import { reason, sentence } from "./api.js";
import { about, button, clock, counted, el, icon, languageName, shownName } from "./ui.js";

const ordinal = new Intl.PluralRules("en", { type: "ordinal" });
const ENDINGS = { one: "st", two: "nd", few: "rd", other: "th" };

const STAGES = {
  load: "Loading the model",
  download: "Downloading the model",
  waiting: "The same recording is being transcribed",
  write: "Writing the transcript",
};

function share(percent) {
  return percent > 0 ? `${Math.round(percent)} % transcribed` : "Started";
}

function queued({ queue_position: place, waiting_for: reason }) {
  if (reason) return sentence(reason);
  if (place === null || place <= 1) return "Next in line";
  return `${place}${ENDINGS[ordinal.select(place)]} in line`;
}

function meta(...facts) {
  const items = facts
    .filter(Boolean)
    .map((fact) => (fact.nodeType ? fact : el("span", { textContent: fact })));
  return items.length ? el("div", { className: "job-meta num" }, ...items) : null;
}

export class Row {
  // acts: { retry(job), menu(job, button) }
  constructor(job, acts) {
    this.acts = acts;
    this.node = el("li", { className: "job" });
    this.node.dataset.id = job.job_id;
    this.draw(job);
  }

  update(job) {
    const goesOn = job.status === "running" && this.job.status === "running";
    const isSame = JSON.stringify(job) === JSON.stringify(this.job);
    if (isSame) return;
    if (goesOn) this.progress(job);
    else this.draw(job);
  }

  draw(job) {
    this.job = job;
    this.node.dataset.status = job.status;
    const hadFocus = document.activeElement?.closest?.(".job") === this.node;
    const act = hadFocus && document.activeElement.dataset.act;
    const opens = ["completed", "running"].includes(job.status);
    const label = shownName(job.name);
    const name = el(opens ? "a" : "span", {
      className: "job-name",
      dir: "auto",
      textContent: label,
      title: job.source.endsWith(job.name) ? job.source : undefined,
      href: opens ? `/t/${encodeURIComponent(job.job_id)}` : undefined,
    });
    name.dataset.act = "open";
    this.length = el("span", { className: "job-time num" });
    const more = el(
      "button",
      {
        className: "btn icon",
        type: "button",
        "aria-label": `More for ${label}`,
        "aria-haspopup": "true",
        onclick: () => this.acts.menu(this.job, more),
      },
      icon("more"),
    );
    more.dataset.act = "more";
    this.node.replaceChildren(
      name,
      this.length,
      more,
      el("div", { className: "job-body" }, ...this.body()),
    );
    this.showLength();
    if (act) (this.node.querySelector(`[data-act="${act}"]:is(a, button)`) ?? more).focus();
  }

  body() {
    const { job } = this;
    if (job.status === "running") return this.running();
    if (job.status === "queued") return [meta(queued(job))];
    if (job.status === "completed") return this.completed();
    return this.failed();
  }

  running() {
    const { job } = this;
    this.bar = el("progress", {
      className: "prog",
      max: 100,
      "aria-label": `${shownName(job.name)}, transcribed`,
    });
    this.words = [el("span"), el("span")];
    this.text = el("p", { className: "job-text live", dir: "auto" });
    this.progress(job);
    return [this.bar, el("div", { className: "prog-words num" }, ...this.words), this.text];
  }

  progress(job) {
    this.job = job;
    const [done, left] = this.words;
    const stage = STAGES[job.stage];
    this.bar.value = job.percent;
    done.textContent = stage ?? share(job.percent);
    left.textContent = job.eta_s === null ? "" : about(job.eta_s);
    this.text.textContent = job.preview ? `…${job.preview}` : "";
    this.text.hidden = !job.preview;
    this.showLength();
  }

  completed() {
    const { preview, language, n_speakers: speakers, warnings } = this.job;
    const n = warnings.length;
    const notes = n && el("span", { className: "note" }, icon("info"), counted(n, "note"));
    return [
      preview
        ? el("p", { className: "job-text", dir: "auto", lang: language, textContent: preview })
        : el("p", { className: "job-hint", textContent: "No speech was found in this recording." }),
      meta(languageName(language), speakers && counted(speakers, "speaker"), notes),
    ];
  }

  failed() {
    const { status, error } = this.job;
    const again = button("Try again", "line", () => this.acts.retry(this.job));
    again.dataset.act = "retry";
    const words =
      status === "cancelled"
        ? [meta("Stopped")]
        : [
            el("p", { className: "job-bad", textContent: reason(this.job) }),
            error?.hint && el("p", { className: "job-hint", textContent: sentence(error.hint) }),
          ];
    return [...words, el("div", { className: "job-acts" }, again)];
  }

  showLength() {
    this.length.textContent = this.job.duration_s ? clock(this.job.duration_s) : "";
  }
}
