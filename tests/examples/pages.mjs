/** Two pages with the chat of examples/clients/use_chat.mjs: one that is closed in the middle of the answer, and one
 * that is opened then.   node pages.mjs server resume|stop */

import assert from "node:assert/strict";

import { createElement } from "react";
import { create } from "react-test-renderer";

const [server, what] = process.argv.slice(2);
const { fetch } = globalThis;
globalThis.fetch = (url, init) => fetch(new URL(url, server), init); // as on a page of that server
console.error = () => {}; // react-test-renderer says that it is deprecated

const { loadChat, useDurableChat } = await import("../../examples/clients/use_chat.mjs");
const id = crypto.randomUUID();

/** A page; `shown` is what the hook returned last. */
async function open() {
  const loaded = await loadChat(id);
  const shown = {};
  const page = create(
    createElement(() => {
      Object.assign(shown, useDurableChat(id, loaded));
      return null;
    }),
  );
  return { shown, close: () => page.unmount() };
}

const textOf = ({ messages }) =>
  (messages ?? [])
    .filter((message) => message.role === "assistant")
    .flatMap((message) => message.parts.flatMap((part) => (part.type === "text" ? [part.text] : [])))
    .join("");

async function until(condition) {
  while (!condition()) await new Promise((resolve) => setTimeout(resolve, 2));
}

const first = await open();
await until(() => first.shown.status === "ready");
void first.shown.sendMessage({ text: what === "stop" ? "Never stop" : "Stay" });
await until(() => textOf(first.shown).length > 20);
if (what === "stop") {
  await first.shown.stop();
  await until(() => first.shown.status === "ready");
  console.log(textOf(first.shown));
  void first.shown.sendMessage({ text: "Pay" });
  const parts = () => first.shown.messages.at(-1).parts;
  const asked = () => parts().find(({ state }) => state === "approval-requested");
  await until(() => first.shown.status === "ready" && asked());
  void first.shown.addToolApprovalResponse({ id: asked().approval.id, approved: true });
  await until(() => first.shown.status === "ready" && parts().some(({ type, state }) => type === "text" && state === "done"));
} else {
  first.close();
  const second = await open();
  await until(() => textOf(second.shown));
  const headers = { "content-type": "application/json" };
  await globalThis.fetch("/runs", { method: "POST", headers, body: JSON.stringify({ message: `Go on ${id}` }) });
  await until(() => second.shown.status === "ready");
  console.log(textOf(second.shown));
  const kept = JSON.parse(JSON.stringify(second.shown.messages));
  assert.deepEqual(kept.map(({ role }) => role), ["user", "assistant"]);
  const third = await open();
  await until(() => third.shown.status === "ready");
  assert.deepEqual(third.shown.messages, kept, "a page that comes after the end");
}
process.exit(0);
