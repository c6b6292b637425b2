// Audio: play, seek, speed, and text that follows the spoken word.
import { setIcon } from "./elements.js";

const SPEEDS = [0.5, 0.75, 1, 1.25, 1.5, 1.75, 2, 2.5, 3];
const INSIDE_S = 0.001; // a seek lands inside the word, not on its border

export class Sound {
  constructor(text, parts) {
    Object.assign(this, { text, parts, audio: parts.audio });
    this.isFollowing = true;
    this.spoken = -1;
    this.current = null; // the paragraph that is spoken
    this.moved = []; // called with the time whenever it changes
    text.drawn.push(() => this.redraw());
    this.listen();
  }

  get duration() {
    return this.text.doc?.duration ?? 0;
  }

  get now() {
    return this.audio.currentTime;
  }

  listen() {
    const { audio, parts } = this;
    audio.preservesPitch = true;
    audio.addEventListener("play", () => {
      this.buttons();
      this.follow(true);
      this.tick();
    });
    audio.addEventListener("pause", () => {
      this.buttons();
      parts.follow.hidden = true;
    });
    audio.addEventListener("ratechange", () => this.buttons());
    for (const kind of ["seeked", "timeupdate", "durationchange"]) {
      audio.addEventListener(kind, () => this.show());
    }
    parts.play.addEventListener("click", () => this.toggle());
    parts.back.addEventListener("click", () => this.skip(-5));
    parts.forward.addEventListener("click", () => this.skip(5));
    parts.speed.addEventListener("click", () => this.faster(1, true));
    parts.resume.addEventListener("click", () => this.follow(true, true));
    for (const kind of ["wheel", "touchmove"]) {
      addEventListener(kind, () => !audio.paused && this.follow(false), { passive: true });
    }
  }

  seek(seconds) {
    const last = Math.max(0, this.duration - 0.05);
    this.audio.currentTime = Math.max(0, Math.min(last, seconds + INSIDE_S));
    this.show();
  }

  // Shows and marks the word at a time, and waits there.
  goTo(seconds) {
    this.seek(seconds);
    this.follow(true);
    const word = this.text.words[Math.max(0, this.text.wordAt(this.now))];
    if (!word) return;
    this.text.reveal(word, true);
    this.text.mark("spoken", [word]);
  }

  playFrom(seconds) {
    this.seek(seconds);
    this.play();
  }

  skip(by) {
    this.seek(this.now + by);
    this.follow(true);
  }

  // The browser may refuse: no audio, or no user gesture yet. `error` of the element shows the
  // former.
  play() {
    this.audio.play().catch(() => this.buttons());
  }

  toggle() {
    if (this.audio.paused) this.play();
    else this.audio.pause();
  }

  faster(step, wraps = false) {
    const now = SPEEDS.findIndex((speed) => speed >= this.audio.playbackRate);
    let next = now + step;
    if (wraps && SPEEDS[next] > 2) next = SPEEDS.indexOf(0.75);
    this.audio.playbackRate = SPEEDS[Math.max(0, Math.min(SPEEDS.length - 1, next))];
  }

  replay() {
    const segment = this.text.segments.findLast((each) => each.start <= this.now);
    this.playFrom(segment?.start ?? 0);
  }

  buttons() {
    const { play, speed } = this.parts;
    const isPlaying = !this.audio.paused;
    setIcon(play, isPlaying ? "pause" : "play");
    play.setAttribute("aria-label", isPlaying ? "Pause" : "Play");
    speed.textContent = `${this.audio.playbackRate}×`;
    speed.setAttribute("aria-label", `Speed ${this.audio.playbackRate} times, change`);
  }

  tick() {
    if (this.audio.paused) return;
    this.show();
    requestAnimationFrame(() => this.tick());
  }

  redraw() {
    this.spoken = -1;
    this.current = null;
    this.show();
  }

  show() {
    const { now, text } = this;
    const i = text.wordAt(now);
    if (i !== this.spoken) {
      const isFar = Math.abs(i - this.spoken) > 40;
      this.spoken = i;
      const word = text.words[i];
      const isHeard = word && (now > 0 || !this.audio.paused);
      text.mark("spoken", isHeard ? [word] : []);
      if (word?.para.node) this.enter(word.para);
      if (word && this.isFollowing && !this.audio.paused) text.reveal(word, isFar);
    }
    for (const call of this.moved) call(now);
  }

  enter(para) {
    if (para !== this.current) {
      this.current?.node.removeAttribute("aria-current");
      para.node.setAttribute("aria-current", "true");
      this.current = para;
    }
    if (!this.isFollowing) this.pointTheWay();
  }

  pointTheWay() {
    const top = this.current?.node.getBoundingClientRect().top ?? 0;
    this.parts.follow.dataset.up = String(top < innerHeight / 2);
  }

  // The pill "Back to the current word" shows while the audio plays elsewhere.
  follow(on, go = false) {
    this.isFollowing = on;
    this.parts.follow.hidden = on || this.audio.paused;
    const word = this.text.words[this.spoken];
    if (on && go && word) this.text.reveal(word);
    if (!on) this.pointTheWay();
  }
}
