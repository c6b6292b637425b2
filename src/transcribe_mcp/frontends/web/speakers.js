// The speakers: colours, shares in the rail, and the form that renames and joins them.
import { jobPath, send } from "./api.js";
import { $, counted, el, openAt, say } from "./ui.js";

const COLOURS = 8;

export class Speakers {
  constructor(jobId) {
    this.jobId = jobId;
    this.colours = new Map();
    this.changed = null; // called with the new document
  }

  attach(text, changed) {
    this.text = text;
    this.changed = changed;
    text.drawn.push(() => this.draw());
    $("#speaker-cancel").onclick = () => $("#speaker").hidePopover();
    $("#speaker-name").oninput = () => this.hint();
    $("#speaker form").onsubmit = (event) => {
      event.preventDefault();
      this.save();
    };
  }

  get hasAny() {
    return this.colours.size > 0;
  }

  colour(name) {
    if (!this.colours.has(name)) this.colours.set(name, (this.colours.size % COLOURS) + 1);
    return this.colours.get(name);
  }

  // Seconds of each speaker, in the order of the document.
  spans() {
    const { doc, segments } = this.text;
    if (doc.speakers?.length) return new Map(doc.speakers.map(({ id, seconds }) => [id, seconds]));
    const spans = new Map();
    for (const { speaker, start, end } of segments) {
      if (speaker) spans.set(speaker, (spans.get(speaker) ?? 0) + end - start);
    }
    return spans;
  }

  draw() {
    const spans = this.spans();
    const all = [...spans.values()].reduce((sum, seconds) => sum + seconds, 0) || 1;
    this.names = [...spans.keys()];
    $("#people").hidden = !spans.size;
    $(".people").replaceChildren(
      ...[...spans].map(([name, seconds]) => {
        const button = el(
          "button",
          { type: "button", title: "Rename" },
          el("span", { className: "sr", textContent: "Rename " }),
          el("span", { className: "dot" }),
          el("span", { className: "name", dir: "auto", textContent: name }),
          el("span", {
            className: "share num",
            textContent: `${Math.round((100 * seconds) / all)} %`,
          }),
        );
        button.onclick = () => this.edit(name, button);
        const item = el("li", {}, button);
        item.dataset.who = this.colour(name);
        return item;
      }),
    );
  }

  // Opens the form beside a name. `para`: where the focus returns to.
  edit(name, from, para = null) {
    if (!this.changed || !name) return;
    this.name = name;
    this.para = para;
    const input = $("#speaker-name");
    input.value = name;
    const others = this.names.filter((each) => each !== name);
    $("#speaker-names").replaceChildren(...others.map((each) => el("option", { value: each })));
    this.hint();
    openAt($("#speaker"), from);
    input.focus();
    input.select();
  }

  hint() {
    const to = $("#speaker-name").value.trim();
    const n = this.text.segments.filter((segment) => segment.speaker === this.name).length;
    const joins = to !== this.name && this.names.includes(to);
    $("#speaker-hint").textContent = joins
      ? `Joins ${this.name} with ${to}.`
      : `Changes the name in ${counted(n, "sentence")}.`;
  }

  async save() {
    const from = this.name;
    const to = $("#speaker-name").value.trim();
    if (!to || to === from) return $("#speaker").hidePopover();
    const joins = this.names.includes(to);
    const body = joins ? { merge: [[to, from]] } : { names: { [from]: to } };
    let doc;
    try {
      doc = await send("POST", jobPath(this.jobId, "/speakers"), body);
    } catch (error) {
      $("#speaker-hint").textContent = error.message;
      return undefined;
    }
    if (!joins) this.colours.set(to, this.colour(from));
    this.colours.delete(from);
    $("#speaker").hidePopover();
    await this.changed(doc);
    const para = this.para && this.text.paras[this.para.i];
    if (para) para.at.focus({ preventScroll: true });
    else $(".people button")?.focus({ preventScroll: true });
    say(joins ? `${from} and ${to} are one speaker now` : `${from} is now ${to}`);
    return undefined;
  }
}
