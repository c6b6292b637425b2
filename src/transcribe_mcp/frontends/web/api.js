// The server's answers. A 401 anywhere shows the token form, see session.js.

export class Problem extends Error {
  constructor(message, status = 0, code = "") {
    super(sentence(message));
    this.status = status;
    this.code = code;
  }
}

// The server writes messages without a capital and a period.
export function sentence(words) {
  const text = words.trim().replace(/^\p{Ll}/u, (letter) => letter.toUpperCase());
  return /[.!?…]$/u.test(text) ? text : `${text}.`;
}

// Why a job failed, without the path of the file, which its row shows.
export function reason({ error, source }) {
  return sentence((error?.message ?? "The request failed").replace(`${source}: `, ""));
}

export const SILENT = "The server does not answer. Check that it still runs.";

function problem(status, text) {
  try {
    const { message, code } = JSON.parse(text).error;
    return new Problem(message, status, code);
  } catch {
    return new Problem(`The server answered with ${status}.`, status);
  }
}

function closed(status) {
  if (status === 401) document.dispatchEvent(new Event("closed"));
}

async function answer(path, options) {
  let response;
  try {
    response = await fetch(path, { credentials: "same-origin", ...options });
  } catch (error) {
    if (error.name === "AbortError") throw error;
    throw new Problem(SILENT);
  }
  if (response.ok) return response;
  if (path !== "/api/session") closed(response.status);
  throw problem(response.status, await response.text());
}

export const jobPath = (id, rest = "") => `/api/jobs/${encodeURIComponent(id)}${rest}`;

export async function get(path, params = {}, signal = undefined) {
  const query = new URLSearchParams();
  for (const [name, value] of Object.entries(params)) {
    for (const each of [value].flat()) if (each) query.append(name, each);
  }
  const text = query.size ? `${path}?${query}` : path;
  return (await answer(text, { signal })).json();
}

export async function bytes(path) {
  return (await answer(path)).arrayBuffer();
}

// The error of reading a file from the server, as a Problem; null if it can be read.
export async function trouble(path) {
  try {
    await (await answer(path, { headers: { range: "bytes=0-0" } })).body?.cancel();
    return null;
  } catch (error) {
    return error;
  }
}

export async function send(method, path, body, { headers = {}, signal } = {}) {
  const response = await answer(path, {
    method,
    headers: body ? { "content-type": "application/json", ...headers } : headers,
    body: body && JSON.stringify(body),
    signal,
  });
  return response.status === 204 ? null : response.json();
}

// XMLHttpRequest, because fetch does not report upload progress.
export function upload(path, form, { onProgress, signal }) {
  return new Promise((resolve, reject) => {
    const request = new XMLHttpRequest();
    request.upload.onprogress = (event) => onProgress(event.loaded, event.total);
    request.onload = () => {
      if (request.status < 300) return resolve(JSON.parse(request.responseText));
      closed(request.status);
      return reject(problem(request.status, request.responseText));
    };
    request.onerror = () => reject(new Problem(SILENT));
    request.onabort = () => reject(new DOMException("Stopped", "AbortError"));
    signal.addEventListener("abort", () => request.abort());
    request.open("POST", path);
    request.send(form);
  });
}

const RETRY_MS = 3000;

// Changes of jobs as they happen. `again` runs after each gap, so that nothing is missed. Hidden
// pages do not listen: a browser opens few connections to one server. `id`: the job that the page
// shows; its state comes first.
export function watch({ id = "", job, deleted, again, line }) {
  let source = null;
  let hasGap = false;
  let timer;
  const close = () => {
    clearTimeout(timer);
    source?.close();
    source = null;
    hasGap = true;
  };
  const found = () => {
    line(true);
    if (hasGap) again();
    hasGap = false;
  };
  const lose = () => {
    hasGap = true;
    line(false);
    if (source?.readyState !== EventSource.CLOSED) return;
    // The browser gave up, because the response was not a stream. After a 401 the form is shown.
    timer = setTimeout(() => {
      get("/api/config").then(open, (error) => error.status === 401 || open());
    }, RETRY_MS);
  };
  function open() {
    source?.close();
    source = new EventSource(id ? `/api/events?job=${encodeURIComponent(id)}` : "/api/events");
    source.addEventListener("open", found);
    source.addEventListener("error", lose);
    source.addEventListener("job", (event) => job(JSON.parse(event.data)));
    source.addEventListener("deleted", (event) => deleted(JSON.parse(event.data).job_id));
  }
  const look = () => (document.hidden ? close() : (source ?? open()));
  const leave = () => close();
  document.addEventListener("visibilitychange", look);
  addEventListener("pagehide", leave);
  addEventListener("pageshow", look);
  open();
}
