/** `@ai-sdk/react`: `useChat({ resume: true })` on a page that is loaded while an answer is coming. */

import { useChat } from "@ai-sdk/react";
import { DefaultChatTransport } from "ai7";
import { createElement } from "react";
import { create } from "react-test-renderer";

import { ALL, define, durable, post, runAll, until, urls } from "./cases.mjs";

/** A page with the chat on it; `shown` is what the hook returned last. */
async function open(id, cut, { resume, fetch }) {
  const shown = {};
  const transport = new DefaultChatTransport({ api: `${urls[cut]}/vercel/chat`, fetch });
  function Page() {
    Object.assign(shown, useChat({ id, transport, resume }));
    return null;
  }
  const page = create(createElement(Page));
  await until(() => shown.status !== undefined);
  return { shown, close: () => page.unmount() };
}

const textOf = ({ messages }) =>
  (messages ?? [])
    .filter((message) => message.role === "assistant")
    .flatMap((message) => message.parts)
    .filter((part) => part.type === "text")
    .map((part) => part.text)
    .join("");

for (const cut of ALL) {
  define(`react.durable.${cut}.resume`, async (name) => {
    const first = await open(name, "none", { resume: false, fetch: durable() });
    void first.shown.sendMessage({ text: "rich 4" });
    await until(() => textOf(first.shown).length > 300);
    const seen = textOf(first.shown).length;
    first.close(); // the tab is closed in the middle of the answer
    const second = await open(name, cut, { resume: true, fetch: durable() });
    await until(() => second.shown.status === "ready" && second.shown.messages.length > 0);
    const told = { text: textOf(second.shown), seen, status: second.shown.status, error: second.shown.error?.message };
    const roles = second.shown.messages.map(({ role }) => role);
    second.close();
    return { ...told, roles };
  });
}
define("react.durable.none.nothing-to-resume", async (name) => {
  const page = await open(name, "none", { resume: true, fetch: durable() });
  await until(() => page.shown.status === "ready");
  const count = page.shown.messages.length;
  page.close();
  return { count };
});
define("react.durable.none.stop", async (name) => {
  const page = await open(name, "none", { resume: false, fetch: durable() });
  void page.shown.sendMessage({ text: "endless 1" });
  await until(() => textOf(page.shown).length > 300);
  await post(`${urls.none}/vercel/chat/${name}/stop`);
  await until(() => page.shown.status === "ready");
  const text = textOf(page.shown);
  page.close();
  return { text };
});

await runAll();
