// The wave: peaks, speakers and hits of find on a canvas, under a real range input.
import { clock, el } from "./elements.js";

const BIN_PX = 16; // narrower turns are dust: each bin shows its main speaker

export class Wave {
  constructor(text, sound, speakers, parts) {
    Object.assign(this, { text, sound, speakers, parts });
    this.peaks = new Int8Array(0);
    this.found = [];
    this.drawnAt = -1;
    this.second = -1;
    const { scrub, canvas } = parts;
    scrub.addEventListener("input", () => {
      sound.seek(Number(scrub.value));
      sound.follow(true);
    });
    scrub.addEventListener("pointermove", (event) => this.preview(event));
    scrub.addEventListener("pointerleave", () => (parts.tip.hidden = true));
    sound.moved.push((now) => this.move(now));
    text.drawn.push(() => this.refresh());
    new ResizeObserver(() => this.size()).observe(canvas);
    document.addEventListener("looks", () => this.size());
    matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => this.size());
  }

  // Args: int8 peaks at equal distances over the whole recording.
  setPeaks(peaks) {
    this.peaks = peaks;
    this.size();
  }

  setFound(words) {
    this.found = words;
    this.refresh();
  }

  refresh() {
    this.parts.scrub.max = this.sound.duration;
    this.turns = null;
    this.second = -1;
    this.drawnAt = -1;
    this.move(this.sound.now);
  }

  preview(event) {
    const { tip, canvas } = this.parts;
    const box = canvas.getBoundingClientRect();
    const share = Math.max(0, Math.min(1, (event.clientX - box.left) / box.width));
    const at = share * this.sound.duration;
    const first = Math.max(0, this.text.wordAt(at));
    const words = this.text.words.slice(first, first + 6).map((word) => word.word);
    tip.textContent = `${clock(at)}  ${words.join("").trim()}…`;
    tip.hidden = false;
    const left = share * box.width - tip.offsetWidth / 2;
    tip.style.left = `${Math.max(0, Math.min(box.width - tip.offsetWidth, left))}px`;
  }

  size() {
    const { canvas } = this.parts;
    this.scale = devicePixelRatio || 1;
    canvas.width = canvas.clientWidth * this.scale;
    canvas.height = canvas.clientHeight * this.scale;
    this.tones = this.readTones();
    this.bars = this.measure();
    this.refresh();
  }

  readTones() {
    const probe = el("i");
    this.parts.canvas.after(probe);
    const read = (name) => {
      probe.style.color = `var(${name})`;
      return getComputedStyle(probe).color;
    };
    const tones = {
      played: read("--accent"),
      ahead: read("--line-strong"),
      head: read("--ink-1"),
      found: read("--found-now"),
      who: Array.from({ length: 9 }, (_, i) => read(`--sp-${i}`)),
    };
    probe.remove();
    return tones;
  }

  // The highest peak of each bar, 0 to 1.
  measure() {
    const n = Math.floor(this.parts.canvas.width / (4 * this.scale));
    const { peaks } = this;
    return Array.from({ length: n }, (_, i) => {
      const from = Math.floor((i / n) * peaks.length);
      const to = Math.max(from + 1, Math.floor(((i + 1) / n) * peaks.length));
      let top = 0;
      for (let k = from; k < to && k < peaks.length; k++) top = Math.max(top, Math.abs(peaks[k]));
      return top / 127;
    });
  }

  move(now) {
    this.showTime(now);
    if (!this.tones || !this.sound.duration) return;
    const x = Math.round((now / this.sound.duration) * this.parts.canvas.width);
    if (x === this.drawnAt) return;
    this.drawnAt = x;
    this.draw(x);
  }

  showTime(now) {
    const second = Math.floor(now);
    if (second === this.second) return;
    this.second = second;
    const { clock: face, scrub } = this.parts;
    const { duration } = this.sound;
    face.firstChild.textContent = clock(now);
    face.lastChild.textContent = ` / ${clock(duration)}`;
    scrub.value = now;
    const who = this.text.words[this.sound.spoken]?.para.segments[0].speaker;
    const place = `${clock(now)} of ${clock(duration)}`;
    scrub.setAttribute("aria-valuetext", who ? `${place}, ${who}` : place);
  }

  draw(x) {
    const { canvas } = this.parts;
    const { scale, tones } = this;
    const pen = canvas.getContext("2d");
    const ribbon = this.speakers.hasAny ? 4 * scale : 0;
    const room = canvas.height - ribbon - 6 * scale;
    pen.clearRect(0, 0, canvas.width, canvas.height);
    this.bars.forEach((bar, i) => {
      const left = i * 4 * scale;
      const tall = Math.max(2 * scale, bar * room * 0.94);
      pen.fillStyle = left < x ? tones.played : tones.ahead;
      pen.globalAlpha = left < x ? 1 : 0.55;
      pen.beginPath();
      pen.roundRect(left, (room - tall) / 2 + scale, 2 * scale, tall, scale);
      pen.fill();
    });
    pen.globalAlpha = 1;
    if (ribbon) this.drawTurns(pen, ribbon);
    this.drawFound(pen, room);
    pen.fillStyle = tones.head;
    pen.beginPath();
    const head = Math.max(0, Math.min(canvas.width - 2 * scale, x - scale));
    pen.roundRect(head, 0, 2 * scale, canvas.height, scale);
    pen.fill();
  }

  drawTurns(pen, ribbon) {
    this.turns ??= this.ribbon();
    for (const { from, to, speaker } of this.turns) {
      pen.fillStyle = this.tones.who[this.speakers.colour(speaker)];
      const width = Math.max(this.scale, to - from - 2 * this.scale);
      pen.fillRect(from, this.parts.canvas.height - ribbon, width, ribbon * 0.75);
    }
  }

  drawFound(pen, room) {
    const share = this.parts.canvas.width / this.sound.duration;
    pen.fillStyle = this.tones.found;
    const places = new Set(this.found.map((word) => Math.round(word.start * share)));
    for (const place of places) pen.fillRect(place - this.scale, 0, 2 * this.scale, room);
  }

  // Who speaks when, in pixels. Where turns would be too narrow, the main speaker of each bin.
  ribbon() {
    const { width } = this.parts.canvas;
    const share = width / this.sound.duration;
    const turns = this.text.paras
      .filter(({ segments }) => segments[0].speaker)
      .map(({ segments }) => ({
        speaker: segments[0].speaker,
        from: segments[0].start * share,
        to: segments.at(-1).end * share,
      }));
    const bin = BIN_PX * this.scale;
    if (width / turns.length > bin) return turns;
    const shares = Array.from({ length: Math.ceil(width / bin) }, () => new Map());
    for (const { speaker, from, to } of turns) {
      const last = Math.min(shares.length - 1, Math.floor(to / bin));
      for (let i = Math.floor(from / bin); i <= last; i++) {
        const part = Math.min(to, (i + 1) * bin) - Math.max(from, i * bin);
        shares[i].set(speaker, (shares[i].get(speaker) ?? 0) + part);
      }
    }
    return shares.flatMap((spans, i) => {
      if (!spans.size) return [];
      const [speaker] = [...spans].reduce((best, each) => (each[1] > best[1] ? each : best));
      return [{ speaker, from: i * bin, to: (i + 1) * bin }];
    });
  }
}
