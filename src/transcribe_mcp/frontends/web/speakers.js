// The speakers: shares in the rail, and the form that renames and merges them.
import { Colours } from "./colours.js";
import { $, counted, el, openAt, say } from "./ui.js";

export class Speakers extends Colours {
  constructor() {
    super();
    this.names = [];
  }

  attach(text, edits) {
    Object.assign(this, { text, edits });
    text.drawn.push(() => this.draw());
    $("#speaker-cancel").onclick = () => $("#speaker").hidePopover();
    $("#speaker form").oninput = () => this.hint();
    $("#speaker form").onsubmit = (event) => {
      event.preventDefault();
      this.save();
    };
  }

  // Seconds of each speaker, in the order of the document. Names that were changed here count by
  // their sentences until the server has the result.
  spans() {
    const { doc, segments } = this.text;
    const spans = new Map();
    const known = new Map((doc.speakers ?? []).map(({ id, seconds }) => [id, seconds]));
    if (known.size && segments.every(({ speaker }) => !speaker || known.has(speaker))) return known;
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

  // Opens the form beside a name. `para`: the paragraph it stands at; `at`: the position of the
  // sentence that is meant.
  edit(name, from, para = null, at = -1) {
    if (!this.edits.isOn) return say("Names can be changed once the transcript is finished");
    if (!name && !para) return undefined;
    Object.assign(this, { name, para, at });
    const input = $("#speaker-name");
    input.value = name ?? "";
    const others = this.names.filter((each) => each !== name);
    $("#speaker-names").replaceChildren(...others.map((each) => el("option", { value: each })));
    const n = this.text.segments.filter((segment) => segment.speaker === name).length;
    $("#where-all").textContent = `Everywhere (${counted(n, "sentence")})`;
    $("#where-here").hidden = !para;
    $("#where-one").hidden = at < 0 || para.segments.length < 2;
    $("#speaker [value=all]").checked = true;
    this.hint();
    openAt($("#speaker"), from);
    input.focus();
    return input.select();
  }

  get wanted() {
    return $("#speaker-name").value.trim();
  }

  get where() {
    return $("#speaker [name=where]:checked").value;
  }

  // The problem with the name, or its side effect.
  hint() {
    const isBad = /[=\p{Cc}]/u.test(this.wanted);
    const { name, wanted } = this;
    const joins = name && wanted !== name && this.names.includes(wanted) && this.where === "all";
    const words = joins ? `Joins ${name} with ${wanted}.` : "";
    $("#speaker-hint").textContent = isBad ? "A name has no equals sign." : words;
    return !isBad;
  }

  save() {
    const { name, wanted, text, para } = this;
    if (!this.hint()) return;
    $("#speaker").hidePopover();
    if (!wanted || wanted === name) return;
    const isMeant = {
      all: ({ speaker }) => speaker === name,
      here: (_, i) => i >= para.from && i < para.from + para.segments.length,
      one: (_, i) => i === this.at,
    }[this.where];
    if (this.where === "all" && name && !this.names.includes(wanted)) {
      this.colours.set(wanted, this.colour(name));
      this.colours.delete(name);
    }
    const patches = text.segments.flatMap((segment, i) =>
      isMeant(segment, i)
        ? [{ at: i, old: [segment], fresh: [{ ...segment, speaker: wanted }] }]
        : [],
    );
    this.edits.change(patches);
    this.edits.save();
    if (para) text.focus(text.paraOf(patches[0].at));
    else $(".people button")?.focus({ preventScroll: true });
    say(name ? `${name} is now ${wanted}` : `Spoken by ${wanted}`);
  }
}
