// The menu of formats.
import { jobPath } from "./api.js";
import { $, el, say } from "./ui.js";

// Formats in groups; the others come last, with the server's labels.
const GROUPS = [
  ["txt", "docx", "md", "timed"],
  ["srt", "vtt"],
];
const LABELS = {
  txt: "Plain text",
  docx: "Word",
  md: "Markdown",
  timed: "Text with times",
  srt: "Subtitles",
  vtt: "Subtitles for the web",
  json: "All data",
  tsv: "Table of sentences",
  rttm: "Speaker turns",
};

export function exportMenu(jobId, formats, edits) {
  const rest = formats.map(({ name }) => name).filter((name) => !GROUPS.flat().includes(name));
  const parts = [...GROUPS, rest].map((names) =>
    names
      .map((name) => formats.find((format) => format.name === name))
      .filter(Boolean)
      .map(({ name, label }) =>
        el(
          "a",
          {
            href: `${jobPath(jobId, "/export")}?format=${encodeURIComponent(name)}`,
            download: "",
          },
          LABELS[name] ?? label,
          el("span", { className: "quiet", textContent: name }),
        ),
      ),
  );
  const menu = $("#export");
  const lines = parts.filter((part) => part.length).flatMap((part) => [...part, el("hr")]);
  menu.replaceChildren(
    ...lines,
    el("button", {
      type: "button",
      textContent: "Print or save as PDF",
      onclick: () => {
        menu.hidePopover();
        print();
      },
    }),
  );
  menu.addEventListener("click", (event) => exported(event, edits));
}

// A file has all edits, so unsaved ones are saved first.
async function exported(event, edits) {
  const link = event.target.closest("a");
  if (!link) return;
  $("#export").hidePopover();
  if (!edits.isDirty) return;
  event.preventDefault();
  await edits.save();
  if (edits.isDirty) say("Some edits are not saved yet. Try again after that.");
  else link.click();
}
