/** Types of durable-fetch.js: see there for what it promises. */

import type { Limits, OnStateChange } from "./stream.js";

export interface DurableFetchOptions {
  /** The `fetch` to build on; the global one if left out. */
  fetch?: typeof fetch;
  limits?: Partial<Limits>;
  onStateChange?: OnStateChange;
}

/** A `fetch` whose event streams go on where a connection was cut. */
export function createDurableFetch(options?: DurableFetchOptions): typeof fetch;
