/**
 * What was typed and not sent, of each conversation, the one that is not begun yet (null) among them. It outlives a reload
 * of the tab and is the tab's own: another one has drafts of its own, which this one does not overwrite.
 */

const DRAFTS_ITEM = "gapless.drafts";
/** Of more conversations, those that were typed in longest ago are forgotten; */
const DRAFTS_MAX = 20;
/** and a longer text, or more of them all, lasts as long as the page is open. */
const KEPT_CHARS_MAX = 200_000;
/** So long after the last key they are written: to write them at each one would cost what they are long. */
const WRITE_MS = 300;

export class Drafts {
  #texts = new Map(read()); // session id, or null → text; the newest last
  #timer = null;

  constructor() {
    addEventListener("pagehide", () => this.#write());
  }

  /** The text that was typed in this conversation, "" for none. */
  of(sessionId) {
    return this.#texts.get(sessionId) ?? "";
  }

  keep(sessionId, text) {
    if (this.of(sessionId) === text) return;
    this.#texts.delete(sessionId);
    if (text !== "") this.#texts.set(sessionId, text);
    if (this.#texts.size > DRAFTS_MAX) this.#texts.delete(this.#texts.keys().next().value);
    this.#timer ??= setTimeout(() => this.#write(), WRITE_MS);
  }

  forget(sessionId) {
    this.keep(sessionId, "");
  }

  /** Forgets all of them: somebody else may come. */
  clear() {
    this.#texts.clear();
    this.#write();
  }

  #write() {
    clearTimeout(this.#timer);
    this.#timer = null;
    let chars = 0;
    const kept = [...this.#texts].reverse().filter(([, text]) => (chars += text.length) <= KEPT_CHARS_MAX).reverse();
    try {
      if (kept.length > 0) sessionStorage.setItem(DRAFTS_ITEM, JSON.stringify(kept));
      else sessionStorage.removeItem(DRAFTS_ITEM);
    } catch {
      // there is no storage here, or no room in it: they last as long as the page is open
    }
  }
}

function read() {
  try {
    return JSON.parse(sessionStorage.getItem(DRAFTS_ITEM) ?? "[]");
  } catch {
    return [];
  }
}
