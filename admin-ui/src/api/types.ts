// The JSON of the Admin API, as the server writes it. `parse.ts` is the only maker of a `Status`.

export type Phase = "active" | "draining" | "drained" | (string & {});
export type DrainMode = "streams" | "sessions";
export type DrainState = "draining" | "drained" | "cancelled" | (string & {});

export interface Counts {
  requests: number;
  websockets: number;
}

export interface NodeCounts extends Counts {
  node: string;
}

export interface Affinity {
  kind: string;
  name: string | null;
}

export interface PoolSpec {
  protocol: string | null;
  affinity: Affinity;
}

/** The fleet's verdict on an endpoint that is checked. */
export interface EndpointHealth {
  verdict: "up" | "down" | (string & {});
  /** What an observer saw when it went down. */
  detail: string;
}

export interface Endpoint extends Counts {
  name: string;
  address: string;
  weight: number;
  revision: string | null;
  phase: Phase;
  /** null where the pool has no checks. */
  health: EndpointHealth | null;
  drain: string | null;
  by_node: NodeCounts[];
}

export interface Pool {
  name: string;
  spec: PoolSpec;
  endpoints: Endpoint[];
}

export interface Route {
  name: string;
  host: string | null;
  path_prefix: string;
  pool: string;
}

export interface FleetNode {
  id: string;
  name: string;
  role: string;
  reachable: boolean;
  epoch: number;
  admin: string | null;
  self: boolean;
  /** Milliseconds since the answering node last heard from it; null when it never did. */
  last_seen_ms: number | null;
  version: string;
  leaving: boolean;
}

export interface DrainNode extends Counts {
  node: string;
  reported: boolean;
  epoch: number;
}

export interface Drain extends Counts {
  /** Closes in a second over the fleet; null leaves what lasts until the deadline. */
  pace: number | null;
  event_streams: number;
  /** About how many have come in the last five minutes; null: they are not let in. */
  sessions: number | null;
  id: string;
  pool: string;
  endpoint: string;
  mode: string;
  state: DrainState;
  /** Unix milliseconds by the fleet's clock. */
  started_ms: number;
  deadline_ms: number | null;
  reason: string;
  safe: boolean;
  nodes: DrainNode[];
  missing: string[];
}

/** Some endpoints of a pool: a revision, or a list. */
export interface Side {
  revision: string | null;
  endpoints: string[];
}

export interface Switchover extends Counts {
  id: string;
  pool: string;
  from: Side;
  to: Side;
  stage: "waiting" | "draining" | "done" | "rolled-back" | (string & {});
  /** Why it was rolled back. */
  detail: string;
  reason: string;
  pace: number;
  ready: number;
  min_ready: number;
  event_streams: number;
  started_ms: number;
  deadline_ms: number | null;
}

export interface Status {
  epoch: number;
  /** The node that answered. */
  node: string;
  leader: string | null;
  quorum: boolean;
  pools: Pool[];
  nodes: FleetNode[];
  drains: Drain[];
  switchovers: Switchover[];
  routes: Route[];
}
