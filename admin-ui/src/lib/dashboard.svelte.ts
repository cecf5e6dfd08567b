// The page's state, once: what the feed brought, what the reader's writes came to, and the token.

import { Feed, type Connection } from "../api/feed";
import { Api, type Outcome, type WriteAction } from "../api/http";
import type { Status } from "../api/types";
import { EMPTY_TRAIL, extendTrail, type Trail } from "./fleet";

/** One write of this page and what became of it. */
export interface Write {
  id: number;
  label: string;
  action: WriteAction;
  at: number;
  /** Null while the answer is awaited. */
  outcome: Outcome | null;
}

const TOKEN_KEY = "tidelock.token";
/** A hidden page gives its stream back: browsers allow six connections to one http/1.1 host over all tabs. */
const HIDDEN_MS = 30_000;
const KEPT_WRITES = 6;
/** An applied write has said what it had to say; the others stay until somebody dismisses them. */
const APPLIED_SHOWN_MS = 12_000;

export class Dashboard {
  status = $state.raw<Status | null>(null);
  trail = $state.raw<Trail>(EMPTY_TRAIL);
  connection = $state.raw<Connection>({ state: "connecting", retryAt: null, reason: null });
  /** Local milliseconds, moved on each second. */
  now = $state(Date.now());
  receivedAt = $state(0);
  /** The node's clock minus ours. */
  skew = $state(0);
  writes = $state.raw<Write[]>([]);
  hasToken = $state(false);
  tokenWanted = $state(false);
  tokenRefused = $state(false);

  #api: Api;
  #feed: Feed;
  #nextWrite = 1;
  #hidden: ReturnType<typeof setTimeout> | undefined;

  constructor(base: string, fetch: typeof globalThis.fetch, private readonly storage: Storage) {
    this.#api = new Api(base, fetch);
    this.#api.token = storage.getItem(TOKEN_KEY);
    this.hasToken = this.#api.token !== null;
    this.#feed = new Feed(this.#api, {
      onStatus: (status) => this.#accept(status),
      onServerTime: (time) => this.#setClock(time),
      onConnection: (connection) => {
        this.connection = connection;
        if (connection.state === "unauthorized") this.#askForToken();
      },
    });
  }

  /** Starts the feed and the clock; returns what stops both. */
  run(): () => void {
    this.#feed.start();
    const clock = setInterval(() => (this.now = Date.now()), 1_000);
    return () => {
      clearInterval(clock);
      clearTimeout(this.#hidden);
      this.#feed.stop();
    };
  }

  /** The fleet's clock: deadlines are in it. */
  get fleetNow(): number {
    return this.now + this.skew;
  }

  get statusAge(): number {
    return Math.max(0, this.now - this.receivedAt);
  }

  visibility(hidden: boolean): void {
    clearTimeout(this.#hidden);
    if (hidden) this.#hidden = setTimeout(() => this.#feed.stop(), HIDDEN_MS);
    else if (this.connection.state === "paused") this.#feed.start();
  }

  retryNow(): void {
    this.#feed.retryNow();
  }

  setToken(token: string): void {
    this.storage.setItem(TOKEN_KEY, token);
    this.#api.token = token;
    this.hasToken = true;
    this.tokenWanted = false;
    this.#feed.start();
  }

  forgetToken(): void {
    this.storage.removeItem(TOKEN_KEY);
    this.#api.token = null;
    this.hasToken = false;
    this.status = null;
    this.trail = EMPTY_TRAIL;
    this.#feed.start();
  }

  changeToken(): void {
    this.tokenRefused = false;
    this.tokenWanted = true;
  }

  dismissToken(): void {
    this.tokenWanted = false;
  }

  /** Sends a write and resolves with its outcome, which is also listed on the page: once for each key. */
  async write(label: string, action: WriteAction): Promise<Outcome> {
    const earlier = this.writes.find((entry) => entry.action.key === action.key);
    if (earlier) return this.repeat(earlier);
    const write: Write = { id: this.#nextWrite++, label, action, at: Date.now(), outcome: null };
    this.writes = [write, ...this.writes].slice(0, KEPT_WRITES);
    return this.#send(write);
  }

  /** Whether the fleet would take a write. It is not listed: nothing happened. */
  async rehearse(action: WriteAction): Promise<Outcome> {
    const outcome = await this.#api.rehearse(action);
    if (outcome.kind === "rejected" && outcome.status === 401) this.#askForToken();
    return outcome;
  }

  /** Sends the same write with the same key: if it did happen, the server answers with the first outcome. */
  repeat(write: Write): Promise<Outcome> {
    this.#replace({ ...write, outcome: null });
    return this.#send(write);
  }

  dismissWrite(write: Write): void {
    this.writes = this.writes.filter((entry) => entry.id !== write.id);
  }

  async #send(write: Write): Promise<Outcome> {
    const outcome = await this.#api.write(write.action);
    this.#replace({ ...write, at: Date.now(), outcome });
    if (outcome.kind === "applied") setTimeout(() => this.dismissWrite(write), APPLIED_SHOWN_MS);
    if (outcome.kind === "rejected" && outcome.status === 401) this.#askForToken();
    return outcome;
  }

  #replace(write: Write): void {
    this.writes = this.writes.map((entry) => (entry.id === write.id ? write : entry));
  }

  #accept(status: Status): void {
    const at = Date.now();
    this.status = status;
    this.receivedAt = at;
    this.now = at;
    this.trail = extendTrail(this.trail, status, at);
    this.tokenRefused = false;
  }

  #setClock(serverTime: number): void {
    // The Date header has whole seconds: less than two are no difference.
    const skew = serverTime - Date.now();
    this.skew = Math.abs(skew) < 2_000 ? 0 : skew;
  }

  #askForToken(): void {
    this.tokenRefused = this.hasToken;
    this.tokenWanted = true;
  }
}
