// The colours of speakers, in order of appearance.

const COLOURS = 8;

export class Colours {
  constructor() {
    this.colours = new Map();
  }

  get hasAny() {
    return this.colours.size > 0;
  }

  colour(name) {
    if (!this.colours.has(name)) this.colours.set(name, (this.colours.size % COLOURS) + 1);
    return this.colours.get(name);
  }
}
