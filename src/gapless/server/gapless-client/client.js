/** The npm package `gapless-client`: a durable `fetch` for other libraries' clients, and a client of its own. */
export * from "./durable-fetch.js";
export { EventStreamParser, FEED, GaplessClient, LIMITS, SESSION, StreamError, follow, newId, readFrames } from "./stream.js";
