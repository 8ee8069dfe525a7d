/** `@ai-sdk/react`: `useChat({ resume: true })` on a page that is loaded while an answer is coming. */

import { useChat } from "@ai-sdk/react";
import { DefaultChatTransport, isToolUIPart, lastAssistantMessageIsCompleteWithApprovalResponses } from "ai7";
import { createElement } from "react";
import { create } from "react-test-renderer";

import { ALL, define, durable, go, post, runAll, until, urls } from "./cases.mjs";

/** A page with the chat on it; `shown` is what the hook returned last. */
async function open(id, cut, { resume, fetch = globalThis.fetch, ...options }) {
  const shown = {};
  let answered = !resume; // whether there is an answer to join: who sends a message before has two streams of one run
  const asking = (...request) => fetch(...request).finally(() => (answered = true));
  const transport = new DefaultChatTransport({ api: `${urls[cut]}/vercel/chat`, fetch: asking });
  function Page() {
    Object.assign(shown, useChat({ id, transport, resume, ...options }));
    return null;
  }
  const page = create(createElement(Page));
  await until(() => shown.status !== undefined && answered);
  return { shown, close: () => page.unmount() };
}

const textOf = ({ messages }) =>
  (messages ?? [])
    .filter((message) => message.role === "assistant")
    .flatMap((message) => message.parts)
    .filter((part) => part.type === "text")
    .map((part) => part.text)
    .join("");

/** What the page shows of the last answer. */
function report({ messages, status, error }) {
  const { parts, metadata } = messages.findLast(({ role }) => role === "assistant") ?? { parts: [] };
  return {
    text: parts.filter(({ type }) => type === "text").map(({ text }) => text).join(""),
    reasoning: parts.filter(({ type }) => type === "reasoning").map(({ text }) => text).join(""),
    tools: parts.filter(isToolUIPart).map(({ type, state, input, output }) => ({ type, state, input, output })),
    others: parts.filter(({ type }) => /^(data-|source-|file)/.test(type)).map(({ type }) => type),
    usage: metadata?.usage,
    roles: messages.map(({ role }) => role),
    status,
    error: error?.message,
  };
}

for (const cut of ALL) {
  define(`react.durable.${cut}.rich`, async (name) => {
    const finished = [];
    const onFinish = ({ finishReason }) => finished.push(finishReason);
    const page = await open(name, cut, { resume: true, fetch: durable(), onFinish });
    // React may be behind: what it shows must be the end as well.
    const complete = () => page.shown.status === "ready" && page.shown.messages.at(-1)?.metadata?.usage;
    await page.shown.sendMessage({ text: "rich 3" });
    await until(() => finished.length === 1 && complete());
    await page.shown.regenerate();
    await until(() => finished.length === 2 && complete());
    const told = report(page.shown);
    page.close();
    return { ...told, finished };
  });
  define(`react.durable.${cut}.error`, async (name) => {
    const page = await open(name, cut, { resume: true, fetch: durable() });
    await page.shown.sendMessage({ text: "error 1" });
    await until(() => page.shown.status === "error");
    const told = report(page.shown);
    page.close();
    return told;
  });
  define(`react.durable.${cut}.approve`, async (name) => {
    const sendAutomaticallyWhen = lastAssistantMessageIsCompleteWithApprovalResponses;
    const page = await open(name, cut, { resume: true, fetch: durable(), sendAutomaticallyWhen });
    await page.shown.sendMessage({ text: "approve 1" });
    const asks = () => page.shown.messages.at(-1)?.parts.find((part) => part.state === "approval-requested");
    await until(() => page.shown.status === "ready" && asks());
    const asked = asks();
    await page.shown.addToolApprovalResponse({ id: asked.approval.id, approved: true });
    await until(() => page.shown.status === "ready" && textOf(page.shown).length > 20);
    const told = report(page.shown);
    page.close();
    return told;
  });
  define(`react.plain.${cut}.rich`, async (name) => {
    const finished = [];
    let last; // React may be behind: what it shows must be the end as well
    const onFinish = ({ finishReason, isError, message }) => {
      finished.push({ finishReason, isError });
      last = JSON.stringify(message.parts);
    };
    const page = await open(name, cut, { resume: false, fetch: undefined, onFinish });
    await page.shown.sendMessage({ text: "rich 3" });
    const isLast = () => JSON.stringify(page.shown.messages.at(-1)?.parts) === last;
    await until(() => ["ready", "error"].includes(page.shown.status) && finished.length > 0 && isLast());
    const told = report(page.shown);
    page.close();
    return { ...told, finished };
  });
  define(`react.durable.${cut}.resume`, async (name) => {
    const first = await open(name, "none", { resume: false, fetch: durable() });
    void first.shown.sendMessage({ text: "held 1" });
    await until(() => textOf(first.shown).length > 300);
    const seen = textOf(first.shown).length;
    first.close(); // the tab is closed in the middle of the answer
    const second = await open(name, cut, { resume: true, fetch: durable() });
    await until(() => second.shown.messages.length > 0);
    await go(name);
    await until(() => second.shown.status === "ready");
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
