/**
 * The tab's one connection, whatever it shows: a browser has six for a server over HTTP/1.1, for all of its tabs. It
 * carries the shown conversation, run after run, and what becomes of all others; with no conversation shown, only that.
 */

import { authorised, client } from "./api.js";
import { FEED, StreamError } from "./stream.js";

/** A connection that was given up is tried again after this, and as soon as somebody looks. */
const AGAIN_MS = 5000;
/** A tab that nobody has seen for so long lets its connection go, where they are scarce; it catches up when it is seen. */
const UNSEEN_MS = 15_000;
/** Who was away for so long may have come back with a dead connection: the server says something every ten seconds. */
const AWAY_MS = 25_000;

export class Line {
  #given;
  #abort = new AbortController();
  #cursor; // in the feed
  #again = null; // ends the wait for another try
  #restart = () => {};
  #hiddenAt = 0;
  #leaving; // the timer of a tab that is not seen
  #seen = null; // while the connection is let go: what ends that, once it is known

  /**
   * `onFeed(change)` is told what becomes of a conversation, `onState(state)` how the connection is. `everyone()` says
   * whether the conversations are those of all users, for operators.
   */
  constructor(given) {
    this.#given = given;
    addEventListener("online", () => this.#look(true));
    addEventListener("focus", () => this.#look(false));
    document.addEventListener("visibilitychange", () => (document.hidden ? this.#hide() : this.#show()));
  }

  #hide() {
    this.#hiddenAt = Date.now();
    if (!scarce()) return;
    this.#leaving = setTimeout(() => {
      this.#seen = () => {};
      this.#restart();
    }, UNSEEN_MS);
  }

  #show() {
    clearTimeout(this.#leaving);
    const seen = this.#seen;
    this.#seen = null;
    if (seen) seen();
    else this.#look(Date.now() - this.#hiddenAt > AWAY_MS);
  }

  /**
   * Follows a session, or none, from now on, and leaves the one before. `after()` is the place to begin behind.
   * `onEvent({ id, runId, event })` is waited for; `onGone()` is told of a session that is deleted, `onRefused(error)` of
   * one that the server will not go on with.
   */
  async follow(sessionId, { after, onEvent, onGone, onRefused }) {
    this.#abort.abort();
    const ending = (this.#abort = new AbortController());
    while (!ending.signal.aborted) {
      if (this.#seen) await new Promise((resolve) => (this.#seen = resolve));
      if (ending.signal.aborted) return;
      const one = new AbortController();
      ending.signal.addEventListener("abort", () => one.abort());
      this.#restart = () => one.abort();
      try {
        await authorised(() => this.#read(sessionId, after(), onEvent, one.signal));
        if (sessionId !== null) return ending.signal.aborted ? undefined : onGone();
      } catch (error) {
        if (ending.signal.aborted) return;
        if (one.signal.aborted) continue;
        if (error?.status === 404 && sessionId !== null) return onGone();
        if (error instanceof StreamError && error.code !== "connection_lost") return onRefused(error);
        this.#given.onState("lost");
        await new Promise((resolve) => {
          this.#again = resolve;
          setTimeout(resolve, AGAIN_MS);
        });
      }
    }
  }

  async #read(sessionId, after, onEvent, signal) {
    const onStateChange = (state) => signal.aborted || state === "closed" || this.#given.onState(state);
    const everyone = this.#given.everyone?.() ?? false;
    if (sessionId === null) {
      for await (const { id, change } of client.followFeed({ everyone, after: this.#cursor, signal, onStateChange })) {
        this.#cursor = id;
        this.#given.onFeed(change);
      }
      return;
    }
    const options = { after, feed: this.#cursor ?? true, everyone, signal, onStateChange };
    for await (const { id, runId, event } of client.followSession(sessionId, options)) {
      signal.throwIfAborted();
      if (runId === undefined && event.name === FEED) {
        this.#cursor = event.value.cursor;
        this.#given.onFeed(event.value);
      } else {
        await onEvent({ id, runId, event });
      }
    }
  }

  #look(anew) {
    if (document.hidden) return;
    if (anew) this.#restart();
    this.#again?.();
  }
}

/** Whether connections are few: those of HTTP/1.1 are, with HTTP/2 all tabs share one. */
function scarce() {
  return !/^h[23]/.test(performance.getEntriesByType("navigation")[0]?.nextHopProtocol ?? "");
}
