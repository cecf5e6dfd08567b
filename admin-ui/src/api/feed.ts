// Keeps the page's status fresh: the event stream when it works, polling `/v1/status` while it does not.
// It knows nothing of the page; App's state (lib/dashboard.svelte.ts) owns it and receives what it finds.
//
//   connecting --first event--> live --stream ends or is silent--> connecting
//   not live: poll every 2 s    answered: polling     failed: offline
//   any answer 401 or 403: unauthorized, everything stops until `start()` is called again

import { backoffMs } from "./backoff";
import { ApiError, sentence, serverTime, type Answer } from "./http";
import { parseStatus } from "./parse";
import { SseParser } from "./sse";
import type { Status } from "./types";

export interface Connection {
  state: "connecting" | "live" | "polling" | "offline" | "unauthorized" | "paused";
  /** When the stream is tried again, local milliseconds. */
  retryAt: number | null;
  /** Why the stream is not live, in words. */
  reason: string | null;
}

export interface FeedSource {
  events(signal: AbortSignal): Promise<Response>;
  status(signal: AbortSignal): Promise<Answer>;
}

export interface FeedListener {
  onStatus(status: Status): void;
  /** The node's clock, to the second, whenever an answer told it. */
  onServerTime(serverTime: number): void;
  onConnection(connection: Connection): void;
}

/** The server sends a comment every 10 s: two lost ones and some slack mean the stream is dead. */
const SILENCE_MS = 25_000;
const OPEN_MS = 8_000;
/** A stream shorter than this counts as a failure, so that a node which closes at once is not hammered. */
const HEALTHY_MS = 5_000;
const POLL_MS = 2_000;
const POLL_GRACE_MS = 1_000;

export class Feed {
  #abort: AbortController | null = null;
  #poll: ReturnType<typeof setTimeout> | undefined;
  #wake: (() => void) | null = null;
  #connection: Connection = { state: "paused", retryAt: null, reason: null };
  #received = 0;

  constructor(
    private readonly source: FeedSource,
    private readonly listener: FeedListener,
    private readonly random: () => number = Math.random,
  ) {}

  start(): void {
    this.stop();
    const abort = new AbortController();
    this.#abort = abort;
    this.#show({ state: "connecting", retryAt: null, reason: null });
    void this.#streams(abort.signal);
    this.#schedulePoll(POLL_GRACE_MS, abort.signal);
  }

  stop(): void {
    this.#abort?.abort();
    this.#abort = null;
    clearTimeout(this.#poll);
    this.#show({ state: "paused", retryAt: null, reason: null });
  }

  /** Tries the stream now instead of at the end of the back-off. */
  retryNow(): void {
    this.#wake?.();
  }

  async #streams(signal: AbortSignal): Promise<void> {
    let failures = 0;
    while (!signal.aborted) {
      const opened = Date.now();
      let reason = "The stream ended.";
      try {
        await this.#stream(signal);
      } catch (error) {
        if (signal.aborted || this.#refused(error)) return;
        reason = sentence(error);
      }
      if (signal.aborted) return;
      failures = Date.now() - opened >= HEALTHY_MS ? 0 : failures + 1;
      const delay = backoffMs(Math.max(failures - 1, 0), this.random());
      const state = this.#connection.state === "live" ? "connecting" : this.#connection.state;
      this.#show({ state, retryAt: Date.now() + delay, reason });
      this.#schedulePoll(Math.min(POLL_GRACE_MS, delay), signal);
      await this.#sleep(delay, signal);
    }
  }

  /** Reads one stream to its end. Throws when it fails, is refused or falls silent. */
  async #stream(signal: AbortSignal): Promise<void> {
    const watchdog = new AbortController();
    const tooLate = (what: string) => () => watchdog.abort(new Error(what));
    let timer = setTimeout(tooLate("The stream did not open in time."), OPEN_MS);
    try {
      const response = await this.source.events(AbortSignal.any([signal, watchdog.signal]));
      const time = serverTime(response);
      if (time !== null) this.listener.onServerTime(time);
      const reader = response.body?.pipeThrough(new TextDecoderStream()).getReader();
      if (!reader) throw new Error("The stream has no body.");
      const parser = new SseParser();
      for (;;) {
        clearTimeout(timer);
        timer = setTimeout(tooLate("The stream fell silent."), SILENCE_MS);
        const { done, value } = await reader.read();
        if (done) return;
        for (const event of parser.push(value)) {
          if (event.event === "status") this.#accept(event.data);
        }
      }
    } catch (error) {
      throw watchdog.signal.aborted ? watchdog.signal.reason : error;
    } finally {
      clearTimeout(timer);
      watchdog.abort();
    }
  }

  #accept(data: string): void {
    const status = parseStatus(JSON.parse(data));
    this.#received += 1;
    clearTimeout(this.#poll);
    if (this.#connection.state !== "live") this.#show({ state: "live", retryAt: null, reason: null });
    this.listener.onStatus(status);
  }

  #schedulePoll(delay: number, signal: AbortSignal): void {
    clearTimeout(this.#poll);
    this.#poll = setTimeout(() => void this.#pollOnce(signal), delay);
  }

  async #pollOnce(signal: AbortSignal): Promise<void> {
    if (signal.aborted) return;
    const before = this.#received;
    try {
      const answer = await this.source.status(signal);
      if (signal.aborted) return;
      const status = parseStatus(answer.json);
      // The stream overtook this answer: what it brought is newer.
      if (this.#received !== before) return;
      if (answer.serverTime !== null) this.listener.onServerTime(answer.serverTime);
      this.listener.onStatus(status);
      this.#show({ ...this.#connection, state: "polling" });
    } catch (error) {
      if (signal.aborted || this.#refused(error)) return;
      if (this.#received !== before) return;
      this.#show({ ...this.#connection, state: "offline", reason: sentence(error) });
    }
    this.#schedulePoll(POLL_MS, signal);
  }

  #refused(error: unknown): boolean {
    if (!(error instanceof ApiError) || (error.status !== 401 && error.status !== 403)) return false;
    this.#abort?.abort();
    this.#abort = null;
    clearTimeout(this.#poll);
    this.#show({ state: "unauthorized", retryAt: null, reason: error.message });
    return true;
  }

  #sleep(delay: number, signal: AbortSignal): Promise<void> {
    return new Promise((resolve) => {
      const done = () => {
        clearTimeout(timer);
        signal.removeEventListener("abort", done);
        this.#wake = null;
        resolve();
      };
      const timer = setTimeout(done, delay);
      signal.addEventListener("abort", done);
      this.#wake = done;
    });
  }

  #show(connection: Connection): void {
    this.#connection = connection;
    this.listener.onConnection(connection);
  }
}
