// Audio in clips of half a minute, sent in messages, because a view cannot load a URL. It has the
// parts of an <audio> element that the player needs.

const CLIP_S = 30;
const KEPT = 8; // clips, decoded: 6 MB each
const LEAD_S = 0.05; // between the order to play and the first sample

export class Clips extends EventTarget {
  // Args: load: seconds -> the bytes of the clip that starts there.
  constructor(load) {
    super();
    this.load = load;
    this.duration = 0;
    this.paused = true;
    this.playbackRate = 1;
    this.error = null;
    this.clips = new Map(); // start -> promise of the decoded clip
    this.sources = new Set();
    this.run = 0; // each start, seek and pause ends the run before
    this.at = 0; // time of the sound at the moment `since` of the context
    this.since = null;
    this.until = 0; // end of what is decoded and will be heard
  }

  get currentTime() {
    if (this.since === null) return this.at;
    const passed = Math.max(0, this.context.currentTime - this.since);
    return Math.min(this.at + passed, this.until, this.duration);
  }

  set currentTime(seconds) {
    this.stop(seconds);
    if (!this.paused) this.start();
    this.dispatchEvent(new Event("seeked"));
  }

  async play() {
    this.context ??= new AudioContext();
    await this.context.resume();
    if (this.currentTime >= this.duration) this.at = 0;
    this.paused = false;
    this.dispatchEvent(new Event("play"));
    this.start();
  }

  pause() {
    this.stop(this.currentTime);
    this.paused = true;
    this.dispatchEvent(new Event("pause"));
  }

  stop(at) {
    this.run++;
    for (const source of this.sources) source.stop();
    this.sources.clear();
    this.at = at;
    this.since = null;
  }

  async start() {
    const run = ++this.run;
    try {
      const isWhole = await this.playOn(run);
      if (isWhole) this.pause();
    } catch (error) {
      if (run !== this.run) return;
      this.error = error;
      this.pause();
      this.dispatchEvent(new Event("error"));
    }
  }

  // One clip plays and the next one waits for its moment, so that no gap is heard.
  async playOn(run) {
    let from = this.at;
    let when = null;
    let before = null;
    while (from < this.duration) {
      const start = Math.floor(from / CLIP_S) * CLIP_S;
      const buffer = await this.clip(start);
      if (run !== this.run) return false;
      if (when === null || when < this.context.currentTime) {
        when = this.context.currentTime + LEAD_S;
        this.at = from;
        this.since = when;
      }
      const ended = this.order(buffer, when, from - start);
      this.until = start + CLIP_S;
      when += this.until - from;
      from = this.until;
      await before;
      if (run !== this.run) return false;
      before = ended;
    }
    await before;
    return run === this.run;
  }

  order(buffer, when, offset) {
    const source = new AudioBufferSourceNode(this.context, { buffer });
    source.connect(this.context.destination);
    source.start(when, offset);
    this.sources.add(source);
    return new Promise((done) => (source.onended = () => done(this.sources.delete(source))));
  }

  clip(start) {
    let found = this.clips.get(start);
    if (!found) {
      found = this.load(start).then((bytes) => this.context.decodeAudioData(bytes));
      found.catch(() => this.clips.delete(start)); // the next try asks again
    }
    this.clips.delete(start);
    this.clips.set(start, found); // now the newest
    while (this.clips.size > KEPT) this.clips.delete(this.clips.keys().next().value);
    return found;
  }
}
