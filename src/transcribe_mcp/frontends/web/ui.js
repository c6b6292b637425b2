// Shared by all pages: menus, dialogs, theme and text size.
import { $, el } from "./elements.js";

export * from "./elements.js";

export function button(words, kind, act) {
  return el("button", {
    className: `btn ${kind}`,
    type: "button",
    textContent: words,
    onclick: act,
  });
}

export function about(seconds) {
  if (seconds < 50) return "less than a minute left";
  if (seconds < 5400) return `about ${Math.round(seconds / 60)} min left`;
  return `about ${Math.round(seconds / 360) / 10} h left`;
}

export function day(time) {
  const date = new Date(time);
  const midnight = (moment) => new Date(moment).setHours(0, 0, 0, 0);
  const days = Math.round((midnight(Date.now()) - midnight(date)) / 86400000);
  if (days === 0) return "Today";
  if (days === 1) return "Yesterday";
  return date.toLocaleDateString("en", { day: "numeric", month: "long", year: "numeric" });
}

// Chromium has no names for some languages of Whisper.
const OTHER_LANGUAGES = { ba: "Bashkir", bo: "Tibetan" };
const languages = new Intl.DisplayNames(["en"], { type: "language", fallback: "none" });

export function languageName(code) {
  try {
    return code ? (languages.of(code) ?? OTHER_LANGUAGES[code] ?? code) : null;
  } catch {
    return code;
  }
}

// A popover opens below its button, or above where there is no room. The platform handles Esc,
// light dismiss and the return of focus.
function place(pop, from) {
  const at = from.getBoundingClientRect();
  const { offsetWidth: width, offsetHeight: height } = pop;
  const isBelow = at.bottom + 6 + height < innerHeight || at.top < height;
  const left = at.left < innerWidth / 2 ? at.left : at.right - width;
  pop.style.top = `${Math.max(8, isBelow ? at.bottom + 6 : at.top - height - 6)}px`;
  pop.style.left = `${Math.max(8, Math.min(left, innerWidth - width - 8))}px`;
}

export function openAt(pop, from) {
  pop.showPopover({ source: from });
  place(pop, from);
}

function walkMenu(event, pop) {
  if (event.key !== "ArrowDown" && event.key !== "ArrowUp") return;
  const items = [...pop.querySelectorAll(":scope > a, :scope > button")];
  const here = items.indexOf(document.activeElement);
  if (here < 0) return;
  event.preventDefault();
  const step = event.key === "ArrowDown" ? 1 : items.length - 1;
  items[(here + step) % items.length].focus();
}

function wire() {
  for (const pop of document.querySelectorAll(".menu[popover]")) {
    pop.addEventListener("keydown", (event) => walkMenu(event, pop));
  }
  for (const opener of document.querySelectorAll("[popovertarget]")) {
    const pop = document.getElementById(opener.getAttribute("popovertarget"));
    opener.setAttribute("aria-haspopup", "true");
    opener.setAttribute("aria-expanded", "false");
    pop.addEventListener("toggle", (event) => {
      const isOpen = event.newState === "open";
      opener.setAttribute("aria-expanded", String(isOpen));
      if (!isOpen) return;
      place(pop, opener);
      pop.querySelector("a, button, input:checked, input")?.focus();
    });
  }
  for (const closer of document.querySelectorAll("[data-close]")) {
    closer.onclick = () => closer.closest("dialog").close();
  }
}

function choices() {
  const { dataset } = document.documentElement;
  for (const input of document.querySelectorAll("input[name=theme], input[name=size]")) {
    input.checked = (dataset[input.name] ?? "") === input.value;
    input.onchange = () => {
      if (input.value) dataset[input.name] = input.value;
      else delete dataset[input.name];
      keep(input.name, input.value);
      document.dispatchEvent(new Event("looks"));
    };
  }
}

function keep(name, value) {
  try {
    if (value) localStorage.setItem(name, value);
    else localStorage.removeItem(name);
  } catch {
    // A browser without storage forgets the choice with the page.
  }
}

function topLine() {
  const top = $(".top");
  const mark = () => (top.dataset.over = String(scrollY > 90));
  addEventListener("scroll", mark, { passive: true });
  mark();
}

// Shows whether the server is reachable; short gaps are ignored.
let silence;
export function showLine(isConnected) {
  clearTimeout(silence);
  const words = $("#offline");
  if (!words) return;
  if (isConnected) words.textContent = "";
  else silence = setTimeout(() => (words.textContent = "Not connected, trying again"), 1500);
}

let going;
// Shows a message for some seconds.
export function say(words, ms = 3500) {
  const toast = $(".toast");
  clearTimeout(going);
  toast.replaceChildren(el("span", { textContent: words }));
  going = setTimeout(() => toast.replaceChildren(), ms);
}

let isStarted = false;
export function start() {
  if (isStarted) return;
  isStarted = true;
  document.body.dataset.open = "true";
  wire();
  choices();
  topLine();
}

// For the tests: the page is drawn.
export function ready() {
  document.documentElement.dataset.ready = "true";
}
