// The session: a token in the URL or from the form becomes a cookie that no script can read.
import { get, send } from "./api.js";
import { el, icon } from "./ui.js";

const WRONG =
  "That is not the token of the running server. Copy it again from the terminal.";

let isNeeded = () => false;

// While `check` is true, the page stays behind the form, because it has unsaved edits.
export function keepWhile(check) {
  isNeeded = check;
}

// The server accepts this browser again: show the page.
export function reopen() {
  const door = document.getElementById("door");
  const app = document.getElementById("app");
  if (!door || !app) return;
  door.remove();
  app.hidden = false;
  document.title = app.dataset.title;
  document.dispatchEvent(new Event("reopened"));
}

function tokenOfLink() {
  const token = new URLSearchParams(location.hash.slice(1)).get("token");
  if (token) history.replaceState(null, "", location.pathname + location.search);
  return token;
}

// Returns the server's configuration once the browser may read it.
export async function enter() {
  document.addEventListener("closed", showDoor);
  const token = tokenOfLink();
  if (token) {
    try {
      await send("POST", "/api/session", { token });
    } catch (error) {
      if (error.status !== 401) throw error;
      showDoor();
      wrong(WRONG);
      return new Promise(() => {});
    }
  }
  try {
    return await get("/api/config");
  } catch (error) {
    if (error.status === 401) return new Promise(() => {}); // the form reloads the page
    throw error;
  }
}

function wrong(words) {
  const error = document.getElementById("token-error");
  const input = document.getElementById("token");
  error.textContent = words;
  error.hidden = false;
  input.setAttribute("aria-invalid", "true");
  input.select();
}

// The server's link, opened over the form: a browser does not load the page again.
function useLink() {
  const token = document.getElementById("door") && tokenOfLink();
  if (!token) return;
  document.getElementById("token").value = token;
  document.querySelector("#door form").requestSubmit();
}

async function open(event) {
  event.preventDefault();
  const token = document.getElementById("token").value.trim();
  try {
    await send("POST", "/api/session", { token });
  } catch (error) {
    wrong(error.status === 401 ? WRONG : error.message);
    return;
  }
  if (document.getElementById("app")) reopen();
  else location.reload();
}

export function showDoor() {
  if (document.getElementById("door")) return;
  const input = el("input", {
    className: "input",
    id: "token",
    type: "password",
    autocomplete: "off",
    required: true,
    "aria-describedby": "token-error",
  });
  const form = el(
    "form",
    { onsubmit: open },
    el("div", { className: "brand" }, icon("mark"), "TranscribeMCP"),
    el(
      "div",
      {},
      el("h1", { textContent: "Enter the server's token" }),
      el(
        "p",
        {},
        "It is at the end of the link that the server prints in its terminal, after ",
        el("code", { textContent: "#token=" }),
        ". It changes at each start unless you set one.",
      ),
    ),
    el(
      "div",
      { className: "field" },
      el("label", { htmlFor: "token", textContent: "Token" }),
      input,
      el("p", { className: "error", id: "token-error", role: "alert", hidden: true }),
    ),
    el("button", { className: "btn main", textContent: "Open" }),
  );
  const app = document.getElementById("app");
  if (isNeeded()) {
    app.hidden = true;
    app.dataset.title = document.title;
  } else app.remove();
  document.body.append(el("main", { className: "door", id: "door" }, form));
  document.title = "TranscribeMCP";
  document.body.dataset.open = "true";
  addEventListener("hashchange", useLink);
  input.focus();
}
