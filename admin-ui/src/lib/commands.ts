// The commands that empty sections suggest. In one place, so that they follow the command line when it changes.

const DEFAULT_API = "http://127.0.0.1:9900";

export function command(rest: string, origin: string): string {
  const api = origin === DEFAULT_API || origin === "" ? "" : ` --api ${origin}`;
  return `tidelock${api} ${rest}`;
}

export const ADD_POOL = "pool put app";
export const ADD_ENDPOINT = (pool: string) => `endpoint put ${pool} ${pool}-1 --address 10.0.0.5:4000`;
export const ADD_ROUTE = (pool: string) => `route put web --path-prefix / --pool ${pool}`;
export const START_DRAIN = (pool: string, endpoint: string) => `endpoint drain ${pool} ${endpoint} --mode streams`;
