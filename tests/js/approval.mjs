/** Clients that ask, go away, and answer on another day: `phase` says which. `asked` is what each had when it went. */

import { HttpAgent } from "@ag-ui/client";
import { useChat } from "@ai-sdk/react";
import { DefaultChatTransport, isToolUIPart, lastAssistantMessageIsCompleteWithApprovalResponses } from "ai7";
import { createElement } from "react";
import { create } from "react-test-renderer";

import { define, durable, runAll, until, urls } from "./cases.mjs";

const { phase, agents, asked } = JSON.parse(process.env.GAPLESS_TEST);
const base = urls.none;

/** A page with the chat on it, once it has joined what there is to join; `shown` is what the hook returned last. */
async function open(id, agent, options = {}) {
  const shown = {};
  const plain = durable();
  let joined = !options.resume; // who answers before has two streams of one run
  const fetch = async (...request) => {
    const response = await plain(...request);
    joined ||= response.status === 204;
    return response;
  };
  const onFinish = () => (joined = true);
  const transport = new DefaultChatTransport({ api: `${base}/vercel/chat`, fetch, body: { agent } });
  const sendAutomaticallyWhen = lastAssistantMessageIsCompleteWithApprovalResponses;
  function Page() {
    Object.assign(shown, useChat({ id, transport, sendAutomaticallyWhen, onFinish, ...options }));
    return null;
  }
  const page = create(createElement(Page));
  await until(() => shown.status !== undefined && joined);
  return { shown, close: () => page.unmount() };
}

const question = ({ messages }) => messages?.at(-1)?.parts.find(({ state }) => state === "approval-requested");
const report = ({ messages, status, error }) => ({
  text: messages.at(-1).parts.filter(({ type }) => type === "text").map(({ text }) => text).join(""),
  states: messages.at(-1).parts.filter(isToolUIPart).map(({ state }) => state),
  roles: messages.map(({ role }) => role),
  status,
  error: error?.message,
});

const useChatPhases = {
  ask: async (name, agent) => {
    const page = await open(name, agent);
    await until(() => page.shown.status === "ready");
    await page.shown.sendMessage({ text: name });
    await until(() => page.shown.status === "ready" && question(page.shown));
    page.close();
    return report(page.shown);
  },
  answer: async (name, agent) => {
    const { messages } = await (await fetch(`${base}/vercel/chat/${name}/messages`)).json();
    const page = await open(name, agent, { messages, resume: true });
    await until(() => page.shown.status === "ready" && question(page.shown));
    await page.shown.addToolApprovalResponse({ id: question(page.shown).approval.id, approved: true });
    await until(() => page.shown.status === "ready" && report(page.shown).text.includes("So: "));
    const told = report(page.shown);
    page.close();
    return told;
  },
};

const agUIPhases = {
  ask: async (name, agent) => {
    const client = new HttpAgent({ url: `${base}/ag-ui?agent=${agent}`, threadId: name, fetch: durable() });
    client.addMessage({ id: `${name}-u`, role: "user", content: name });
    await client.runAgent();
    return { messages: client.messages, interrupts: client.pendingInterrupts };
  },
  answer: async (name, agent) => {
    const { messages, interrupts } = asked[name];
    const client = new HttpAgent({
      url: `${base}/ag-ui?agent=${agent}`, threadId: name, fetch: durable(), initialMessages: messages,
    });
    const resume = interrupts.map(({ id }) => ({ interruptId: id, status: "resolved", payload: { approved: true } }));
    await client.runAgent({ resume });
    const said = client.messages.filter(({ role }) => role === "assistant").map(({ content }) => content ?? "");
    return { text: said.join(""), results: client.messages.filter(({ role }) => role === "tool").length };
  },
};

for (const agent of agents) {
  define(`usechat-${agent}`, (name) => useChatPhases[phase](name, agent));
  define(`agui-${agent}`, (name) => agUIPhases[phase](name, agent));
}

await runAll();
