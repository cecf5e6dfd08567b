// A parser for text/event-stream (WHATWG HTML, "Server-sent events"). The browser's EventSource cannot
// send an Authorization header, so the stream is read with fetch and parsed here.

export interface ServerEvent {
  event: string;
  id: string;
  data: string;
}

/** What one event may hold before the stream is given up: a status of several thousand endpoints fits. */
const MAX_BUFFERED = 16 * 1024 * 1024;

export class SseParser {
  #rest = "";
  #first = true;
  #afterCr = false;
  #event = "";
  #data: string[] = [];
  #size = 0;
  #id = "";

  /** Takes the next piece of text, cut anywhere, and returns the events that it completed. */
  push(chunk: string): ServerEvent[] {
    if (chunk === "") return [];
    if (this.#first) {
      this.#first = false;
      if (chunk.startsWith("\uFEFF")) chunk = chunk.slice(1);
    }
    // A CR LF pair may be cut between its two characters: the CR has already ended the line.
    if (this.#afterCr && chunk.startsWith("\n")) chunk = chunk.slice(1);
    this.#afterCr = chunk === "" ? false : chunk.endsWith("\r");

    const lines = (this.#rest + chunk).split(/\r\n|\n|\r/);
    this.#rest = lines.pop() ?? "";
    const events: ServerEvent[] = [];
    for (const line of lines) this.#line(line, events);
    if (this.#rest.length + this.#size > MAX_BUFFERED) throw new Error("an event is larger than 16 MiB");
    return events;
  }

  #line(line: string, events: ServerEvent[]): void {
    if (line === "") {
      if (this.#data.length > 0) {
        events.push({ event: this.#event || "message", id: this.#id, data: this.#data.join("\n") });
      }
      this.#event = "";
      this.#data = [];
      this.#size = 0;
      return;
    }
    const colon = line.indexOf(":");
    if (colon === 0) return; // a comment: the heartbeat
    const field = colon < 0 ? line : line.slice(0, colon);
    let value = colon < 0 ? "" : line.slice(colon + 1);
    if (value.startsWith(" ")) value = value.slice(1);
    if (field === "data") {
      this.#data.push(value);
      this.#size += value.length;
    } else if (field === "event") {
      this.#event = value;
    } else if (field === "id" && !value.includes("\0")) {
      this.#id = value;
    }
    // `retry` is ignored on purpose: backoff.ts decides when to come back.
  }
}
