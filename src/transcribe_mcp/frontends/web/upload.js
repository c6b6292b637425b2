// Recordings from this browser: chosen or dropped, a sheet of options, then one row each during
// the upload.
import { upload } from "./api.js";
import { $, button, el, languageName, say } from "./ui.js";

const AT_ONCE = 2;
const LANGUAGES = (
  "af am ar as az ba be bg bn bo br bs ca cs cy da de el en es et eu fa fi fo fr gl gu ha haw he hi " +
  "hr ht hu hy id is it ja jw ka kk km kn ko la lb ln lo lt lv mg mi mk ml mn mr ms mt my ne nl nn no " +
  "oc pa pl ps pt ro ru sa sd si sk sl sn so sq sr su sv sw ta te tg th tk tl tr tt uk ur uz vi yi yo " +
  "yue zh"
).split(" ");

function size(bytes) {
  if (bytes < 1e6) return `${Math.max(1, Math.round(bytes / 1e3))} kB`;
  if (bytes < 1e9) return `${(bytes / 1e6).toFixed(bytes < 1e7 ? 1 : 0)} MB`;
  return `${(bytes / 1e9).toFixed(1)} GB`;
}

export class Uploads {
  // added: called with the row of the server for each new job.
  constructor(config, added) {
    this.config = config;
    this.added = added;
    this.waiting = [];
    this.active = 0;
  }

  listen() {
    this.fillSheet();
    $("#files").onchange = (event) => {
      this.ask([...event.target.files]);
      event.target.value = ""; // the same file can be chosen again
    };
    this.listenToDrops();
    addEventListener("beforeunload", (event) => this.active && event.preventDefault());
  }

  fillSheet() {
    const { models, default_model: usual, languages = LANGUAGES } = this.config;
    const names = languages.map((code) => [code, languageName(code)]);
    names.sort((a, b) => a[1].localeCompare(b[1], "en"));
    $("#language").append(
      ...names.map(([value, textContent]) => el("option", { value, textContent })),
    );
    const choices = models.map((name) =>
      el("option", {
        value: name,
        textContent: name,
        selected: name === usual,
      }),
    );
    $("#model").append(
      el("option", { value: "", textContent: "Best for this machine" }),
      ...choices,
    );
    $("#model-field").hidden = models.length < 2;
    $("#diarize").onchange = () => ($("#speakers-field").hidden = !$("#diarize").checked);
  }

  // Leaving is counted, because each child fires dragleave too.
  listenToDrops() {
    let depth = 0;
    const show = (on) => ($("#drop").dataset.on = String(on));
    const end = () => {
      depth = 0;
      show(false);
    };
    const holds = (event) => event.dataTransfer?.types.includes("Files");
    addEventListener("dragenter", (event) => {
      if (!holds(event)) return;
      event.preventDefault();
      depth++;
      show(true);
    });
    addEventListener("dragover", (event) => holds(event) && event.preventDefault());
    addEventListener("dragleave", (event) => holds(event) && --depth <= 0 && end());
    addEventListener("keydown", (event) => event.key === "Escape" && end());
    addEventListener("drop", (event) => {
      if (!holds(event)) return;
      event.preventDefault();
      end();
      this.dropped(event.dataTransfer);
    });
  }

  // Browsers pass a folder as an unreadable file.
  dropped({ items, files }) {
    const folders = [...items].map((item) => item.webkitGetAsEntry?.()?.isDirectory ?? false);
    if (folders.includes(true)) say("Folders cannot be dropped. Choose the files inside.", 6000);
    this.ask([...files].filter((_, i) => !folders[i]));
  }

  ask(files) {
    const most = this.config.max_file_bytes;
    const tooLarge = most ? files.filter((file) => file.size > most) : [];
    if (tooLarge.length)
      say(`${tooLarge[0].name} is larger than ${size(most)}, the server's limit.`, 6000);
    const some = files.filter((file) => !tooLarge.includes(file));
    const dialog = $("#upload");
    if (!some.length || dialog.open) return;
    $("#chosen").textContent =
      some.length === 1 ? some[0].name : `${some.length} files, from ${some[0].name}`;
    dialog.returnValue = "";
    dialog.onclose = () => dialog.returnValue === "ok" && this.queue(some);
    dialog.showModal();
    dialog.querySelector(".main").focus();
  }

  options() {
    const diarize = $("#diarize").checked;
    return {
      language: $("#language").value,
      model: $("#model").value,
      vocabulary: $("#vocabulary").value.trim(),
      diarize: diarize ? "true" : "",
      speakers: diarize ? $("#speakers").value.trim() : "",
    };
  }

  queue(files) {
    const options = this.options();
    for (const file of files) this.waiting.push(new Upload(file, options));
    $("#uploads").hidden = false;
    $("#uploads ul").append(...this.waiting.map((each) => each.node));
    this.next();
  }

  next() {
    while (this.active < AT_ONCE && this.waiting.length) {
      const one = this.waiting.shift();
      if (!one.node.isConnected) continue;
      this.active++;
      one
        .run()
        .then((job) => job && this.added(job))
        .finally(() => {
          this.active--;
          $("#uploads").hidden = !$("#uploads ul").children.length;
          this.next();
        });
    }
    $("#uploads").hidden = !$("#uploads ul").children.length;
  }
}

// One upload. `run` returns the server's row, or null if it was stopped.
class Upload {
  constructor(file, options) {
    this.file = file;
    this.options = options;
    this.stop = new AbortController();
    this.bar = el("progress", {
      className: "prog",
      max: 1,
      value: 0,
      "aria-label": `${file.name}, uploaded`,
    });
    this.words = [el("span", { textContent: "Waiting for other uploads" }), el("span")];
    this.body = el(
      "div",
      { className: "job-body" },
      this.bar,
      el("div", { className: "prog-words num" }, ...this.words),
    );
    this.node = el(
      "li",
      { className: "job" },
      el("span", { className: "job-name", dir: "auto", textContent: file.name }),
      el("span", { className: "job-time num", textContent: size(file.size) }),
      this.body,
      el(
        "div",
        { className: "job-acts" },
        button("Stop", "line", () => this.cancel()),
      ),
    );
  }

  cancel() {
    this.stop.abort();
    this.node.remove();
    $("#uploads").hidden = !$("#uploads ul").children.length;
  }

  progress(done, all) {
    this.bar.value = all ? done / all : 0;
    const isSent = done === all;
    this.words[0].textContent = isSent
      ? "Checking the file"
      : `${Math.floor((100 * done) / all)} % uploaded`;
    this.words[1].textContent = isSent ? "" : `${size(done)} of ${size(all)}`;
  }

  async run() {
    const form = new FormData();
    for (const [name, value] of Object.entries(this.options)) if (value) form.append(name, value);
    form.append("file", this.file, this.file.name);
    this.progress(0, this.file.size);
    try {
      const job = await upload("/api/jobs", form, {
        signal: this.stop.signal,
        onProgress: (done, all) => this.progress(done, all),
      });
      this.node.remove();
      return job;
    } catch (error) {
      if (error.name !== "AbortError") this.fail(error);
      return null;
    }
  }

  fail(error) {
    this.body.replaceChildren(el("p", { className: "job-bad", textContent: error.message }));
    this.node
      .querySelector(".job-acts")
      .replaceChildren(button("Close", "line", () => this.cancel()));
  }
}
