// Shows a transcript: text, audio, waveform, find and doubts, connected to the elements of a page.
import { $ } from "./elements.js";
import { Doubts, Find } from "./find.js";
import { Sound } from "./sound.js";
import { Text } from "./text.js";
import { Wave } from "./wave.js";

// Args: audio: an <audio> element, or an object with its interface. speakers: gives names their
// colours.
export function reader(audio, speakers) {
  const text = new Text($("#text"), {
    live: $("#live"),
    colour: (name) => speakers.colour(name),
  });
  const sound = new Sound(text, {
    audio,
    play: $("#play"),
    back: $("#back"),
    forward: $("#fwd"),
    speed: $("#speed"),
    follow: $(".follow"),
    resume: $("#resume"),
  });
  const wave = new Wave(text, sound, speakers, {
    scrub: $(".wave input"),
    canvas: $(".wave canvas"),
    tip: $(".tip"),
    clock: $(".clock"),
  });
  const find = new Find(text, sound, wave, {
    bar: $(".find"),
    input: $(".find input"),
    output: $(".find output"),
    open: $("#find-button"),
    close: $("#find-close"),
    previous: $("#find-prev"),
    next: $("#find-next"),
  });
  const doubts = new Doubts(text, sound, {
    check: $("#doubts"),
    count: $("#doubt-count"),
    next: $("#doubt-next"),
    section: $("#doubtful"),
  });
  return { text, sound, wave, find, doubts };
}
