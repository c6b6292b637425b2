// The client of MCP that shows this view: JSON-RPC in messages between windows, as in the
// extension MCP Apps (2026-01-26).

const PROTOCOL = "2026-01-26";

export class Client {
  // Args: heard: method -> handler of its parameters. The result answers a request.
  constructor(heard) {
    this.heard = heard;
    this.asked = new Map(); // id -> how to settle it
    this.id = 0;
    this.context = {};
    this.abilities = {};
    addEventListener("message", (event) => {
      if (event.source === parent && event.data?.jsonrpc === "2.0") this.take(event.data);
    });
  }

  async start(modes) {
    const answer = await this.ask("ui/initialize", {
      appInfo: { name: "TranscribeMCP transcript", version: "1" },
      appCapabilities: { availableDisplayModes: modes },
      protocolVersion: PROTOCOL,
    });
    this.context = answer.hostContext ?? {};
    this.abilities = answer.hostCapabilities ?? {};
    this.tell("ui/notifications/initialized");
  }

  ask(method, params = {}) {
    const id = ++this.id;
    return new Promise((settle, refuse) => {
      this.asked.set(id, { settle, refuse });
      this.send({ id, method, params });
    });
  }

  tell(method, params = {}) {
    this.send({ method, params });
  }

  // The answer of one of our tools.
  async tool(name, given) {
    return answerOf(await this.ask("tools/call", { name, arguments: given }));
  }

  // The view does not know the client's origin. Messages contain nothing that is secret from the
  // client.
  send(message) {
    parent.postMessage({ jsonrpc: "2.0", ...message }, "*");
  }

  async take({ id, method, params, result, error }) {
    if (!method) {
      const { settle, refuse } = this.asked.get(id) ?? {};
      this.asked.delete(id);
      if (error) refuse?.(new Error(error.message));
      else settle?.(result);
      return;
    }
    const known = method === "ping" ? () => ({}) : this.heard[method];
    if (id === undefined) return known?.(params ?? {});
    if (known) this.send({ id, result: (await known(params ?? {})) ?? {} });
    else this.send({ id, error: { code: -32601, message: `no method ${method}` } });
  }
}

// A tool's answer: one block of text with an object. Our errors are objects, others are plain text.
export function answerOf({ content = [], isError }) {
  const said = content[0]?.text ?? "";
  let answer = null;
  try {
    answer = JSON.parse(said);
  } catch {
    // Not from our server but from the client.
  }
  if (answer?.error && (isError || !answer.status)) {
    const { message, hint } = answer.error;
    throw new Error([message, hint].filter(Boolean).join("; "));
  }
  if (isError || !answer) throw new Error(said || "the client gave no answer");
  return answer;
}
