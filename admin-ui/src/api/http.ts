// Every request to the Admin API goes through here: the address, the bearer token, the time limit and the
// reading of problem+json. Writes have three outcomes, and "unknown" is never shown as success or failure.

export interface Problem {
  title: string;
  detail: string;
  fields: { field: string; detail: string }[];
}

/** An answer that is not a success. `status` is the HTTP status. */
export class ApiError extends Error {
  constructor(
    readonly status: number,
    readonly problem: Problem,
  ) {
    super(problem.detail || problem.title);
  }
}

export type Outcome =
  | { kind: "applied"; epoch: number; drain: string | null }
  | { kind: "rejected"; status: number; problem: Problem }
  | { kind: "unknown"; problem: Problem };

export interface WriteAction {
  method: "POST" | "PUT" | "DELETE";
  path: string;
  body: unknown;
  /** Sent as Idempotency-Key: repeating the same action with it cannot happen twice. */
  key: string;
}

export interface Answer {
  json: unknown;
  serverTime: number | null;
}

const READ_TIMEOUT_MS = 5_000;
/** Longer than the server's own deadline for a proposal, so that the server's word comes first when there is one. */
const WRITE_TIMEOUT_MS = 20_000;

export class Api {
  token: string | null = null;

  constructor(
    private readonly base: string,
    private readonly fetch: typeof globalThis.fetch,
  ) {}

  async status(signal: AbortSignal): Promise<Answer> {
    const response = await this.#send("v1/status", {}, AbortSignal.any([signal, AbortSignal.timeout(READ_TIMEOUT_MS)]));
    if (!response.ok) throw new ApiError(response.status, await readProblem(response));
    return { json: await response.json(), serverTime: serverTime(response) };
  }

  /** Opens the event stream; the caller reads the body and owns `signal`. */
  async events(signal: AbortSignal): Promise<Response> {
    const response = await this.#send("v1/events", { headers: { accept: "text/event-stream" } }, signal);
    if (!response.ok) throw new ApiError(response.status, await readProblem(response));
    const type = response.headers.get("content-type") ?? "";
    if (!type.startsWith("text/event-stream")) throw new Error(`the stream answered with content type ${type || "none"}`);
    return response;
  }

  write(action: WriteAction): Promise<Outcome> {
    return this.#put(action, action.path, { "idempotency-key": action.key }, "applied");
  }

  /** Asks whether the fleet would take the write; nothing is written. */
  rehearse(action: WriteAction): Promise<Outcome> {
    return this.#put(action, `${action.path}?dry_run=true`, {}, "would-apply");
  }

  async #put(action: WriteAction, path: string, headers: Record<string, string>, word: string): Promise<Outcome> {
    const init: RequestInit = { method: action.method, headers };
    if (action.body !== undefined) {
      headers["content-type"] = "application/json";
      init.body = JSON.stringify(action.body);
    }
    try {
      const response = await this.#send(path, init, AbortSignal.timeout(WRITE_TIMEOUT_MS));
      return await readOutcome(response, word);
    } catch (error) {
      return { kind: "unknown", problem: { title: "No answer", detail: sentence(error), fields: [] } };
    }
  }

  #send(path: string, init: RequestInit, signal: AbortSignal): Promise<Response> {
    const headers = new Headers(init.headers);
    if (!headers.has("accept")) headers.set("accept", "application/json");
    if (this.token !== null) headers.set("authorization", `Bearer ${this.token}`);
    return this.fetch(new URL(path, this.base), { ...init, headers, signal, cache: "no-store", credentials: "omit" });
  }
}

/** What a write's answer means. 5xx says nothing about whether the entry was committed, so it is "unknown". */
export async function readOutcome(response: Response, word = "applied"): Promise<Outcome> {
  if (response.ok) {
    const body = (await response.json()) as { outcome?: unknown; epoch?: unknown; drain?: unknown };
    if (body.outcome === word && typeof body.epoch === "number") {
      return { kind: "applied", epoch: body.epoch, drain: typeof body.drain === "string" ? body.drain : null };
    }
    const detail = "The node answered, but not with an outcome this page knows.";
    return { kind: "unknown", problem: { title: "Unexpected answer", detail, fields: [] } };
  }
  const problem = await readProblem(response);
  if (response.status >= 500) return { kind: "unknown", problem };
  return { kind: "rejected", status: response.status, problem };
}

export async function readProblem(response: Response): Promise<Problem> {
  const fallback = { title: `HTTP ${response.status}`, detail: response.statusText, fields: [] };
  try {
    const body = (await response.json()) as Record<string, unknown>;
    const fields = Array.isArray(body["problems"]) ? (body["problems"] as Record<string, unknown>[]) : [];
    return {
      title: typeof body["title"] === "string" ? body["title"] : fallback.title,
      detail: typeof body["detail"] === "string" ? body["detail"] : "",
      fields: fields.map((entry) => ({ field: String(entry["field"] ?? ""), detail: String(entry["detail"] ?? "") })),
    };
  } catch {
    return fallback;
  }
}

/** The node's clock at the time of the answer (the Date header has whole seconds), for deadlines. */
export function serverTime(response: Response): number | null {
  const date = Date.parse(response.headers.get("date") ?? "");
  return Number.isNaN(date) ? null : date;
}

/** A failed fetch as words: browsers say only "Failed to fetch", which helps nobody. */
export function sentence(error: unknown): string {
  if (error instanceof ApiError) return error.message;
  if (error instanceof DOMException && error.name === "TimeoutError") return "The node did not answer in time.";
  if (error instanceof TypeError) return "The node cannot be reached.";
  return error instanceof Error ? error.message : String(error);
}

/** A version 4 UUID. `crypto.randomUUID` is missing on plain http pages that are not on localhost. */
export function newKey(): string {
  const bytes = crypto.getRandomValues(new Uint8Array(16));
  bytes[6] = (bytes[6]! & 0x0f) | 0x40;
  bytes[8] = (bytes[8]! & 0x3f) | 0x80;
  const hex = Array.from(bytes, (byte) => byte.toString(16).padStart(2, "0")).join("");
  return [hex.slice(0, 8), hex.slice(8, 12), hex.slice(12, 16), hex.slice(16, 20), hex.slice(20)].join("-");
}
