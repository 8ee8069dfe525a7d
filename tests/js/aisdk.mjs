/** The AI SDK, both versions, each with its own chat class: plain, resuming by itself, and over the durable fetch. */

import * as ai6 from "ai6";
import * as ai7 from "ai7";

import { ALL, CUTS, cuts, define, durable, go, leaving, post, reconnect, runAll, sleep, until, urls } from "./cases.mjs";

for (const [version, ai] of [["ai6", ai6], ["ai7", ai7]]) {
  class TestChat extends ai.AbstractChat {
    constructor(cut, { fetch, headers, ...options }) {
      const state = {
        status: "ready",
        error: undefined,
        messages: options.messages ?? [],
        pushMessage: (message) => (state.messages = [...state.messages, structuredClone(message)]),
        popMessage: () => (state.messages = state.messages.slice(0, -1)),
        replaceMessage: (index, message) => {
          state.messages = state.messages.map((old, at) => (at === index ? structuredClone(message) : old));
        },
        snapshot: (value) => structuredClone(value),
      };
      const finished = [];
      const data = [];
      const transport = new ai.DefaultChatTransport({ api: `${urls[cut]}/vercel/chat`, fetch, headers });
      super({
        transport,
        state,
        onFinish: ({ message, ...how }) => finished.push(how),
        onData: (part) => data.push(part),
        ...options,
      });
      Object.assign(this, { finished, data, cut });
    }

    /** What came of it, the last message by kinds of parts. */
    async report() {
      const last = this.lastMessage;
      const parts = last?.role === "assistant" ? last.parts : [];
      const tools = parts.filter(ai.isToolUIPart);
      return {
        text: parts.filter((part) => part.type === "text").map((part) => part.text).join(""),
        reasoning: parts.filter((part) => part.type === "reasoning").map((part) => part.text).join(""),
        tools: tools.map(({ type, toolCallId, state, input, output }) => ({ type, toolCallId, state, input, output })),
        others: parts.filter((part) => /^(data-|source-|file)/.test(part.type)),
        open: parts.filter((part) => part.state === "streaming" || part.state === "input-streaming").length,
        steps: parts.filter((part) => part.type === "step-start").length,
        transient: this.data.map((part) => part.type),
        metadata: last?.metadata,
        messages: this.messages.map(({ id, role }) => ({ id, role })),
        valid: (await ai.safeValidateUIMessages({ messages: this.messages })).success,
        finishReason: this.finished.at(-1)?.finishReason,
        isError: this.finished.at(-1)?.isError,
        status: this.status,
        error: this.error?.message,
      };
    }
  }

  const ask = async (name, cut, text, options = {}) => {
    const chat = new TestChat(cut, { id: name, ...options });
    await chat.sendMessage({ text });
    return chat;
  };

  for (const cut of ALL) {
    define(`${version}.plain.${cut}.rich`, async (name) => (await ask(name, cut, "rich 3")).report());
    define(`${version}.durable.${cut}.rich`, async (name) =>
      (await ask(name, cut, "rich 3", { fetch: durable() })).report(),
    );
    define(`${version}.durable.${cut}.error`, async (name) =>
      (await ask(name, cut, "error 1", { fetch: durable() })).report(),
    );
    define(`${version}.durable.${cut}.cancel`, async (name) => {
      const chat = new TestChat(cut, { id: name, fetch: durable() });
      const done = chat.sendMessage({ text: "endless 1" });
      await until(() => (chat.lastMessage?.parts?.at(-1)?.text?.length ?? 0) > 3000);
      await post(`${urls.none}/vercel/chat/${name}/stop`);
      await done;
      return chat.report();
    });
    for (const approved of [true, false]) {
      define(`${version}.durable.${cut}.approve-${approved}`, async (name) => {
        const chat = await ask(name, cut, "approve 1", {
          fetch: durable(),
          sendAutomaticallyWhen: ai.lastAssistantMessageIsCompleteWithApprovalResponses,
        });
        const asked = chat.lastMessage.parts.find((part) => part.state === "approval-requested");
        const before = chat.finished.length;
        await chat.addToolApprovalResponse({ id: asked.approval.id, approved, reason: "because" });
        await until(() => chat.finished.length > before && chat.status !== "streaming");
        await sleep(30); // one that sends again by itself would do so now
        return { ...(await chat.report()), requests: chat.finished.length };
      });
    }
  }
  define(`${version}.durable.none.client-tool`, async (name) => {
    const chat = new TestChat("none", {
      id: name,
      fetch: durable(),
      sendAutomaticallyWhen: ai.lastAssistantMessageIsCompleteWithToolCalls,
      onToolCall: ({ toolCall: { toolName, toolCallId } }) => {
        void chat.addToolOutput({ tool: toolName, toolCallId, output: "Zürich" });
      },
    });
    await chat.sendMessage({ text: "client-tool" });
    await until(() => chat.finished.length === 2);
    await sleep(30); // one that sends again by itself would do so now
    return { ...(await chat.report()), requests: chat.finished.length };
  });
  for (const cut of CUTS) {
    // What an application without our fetch can do: join again whenever an answer has no finish reason.
    define(`${version}.resume.${cut}.rich`, async (name) => {
      const chat = await ask(name, cut, "held 1"); // still active when it has been cut for the last time
      let joins = 0;
      while (chat.finished.at(-1).finishReason === undefined && joins < 50) {
        joins += 1;
        const before = chat.finished.length;
        const joined = chat.resumeStream();
        if (joins === cuts) {
          await until(() => chat.status === "streaming");
          await go(name);
        }
        await joined;
        if (chat.finished.length === before) break; // 204: it has ended, and its text is in the session
      }
      return { ...(await chat.report()), joins };
    });
  }
  define(`${version}.durable.none.turns`, async (name) => {
    const chat = await ask(name, "none", "one", { fetch: durable() });
    const first = (await chat.report()).text;
    await chat.sendMessage({ text: "two" });
    const second = (await chat.report()).text;
    await chat.regenerate();
    return { first, second, third: (await chat.report()).text, ...(await chat.report()) };
  });
  define(`${version}.durable.none.hang-up`, async (name) => {
    const chat = new TestChat("none", { id: name, fetch: durable() });
    const done = chat.sendMessage({ text: "endless 1" });
    await until(() => chat.lastMessage?.role === "assistant");
    await chat.stop();
    await done;
    const joined = new TestChat("none", { id: name, messages: chat.messages });
    const again = joined.resumeStream();
    await until(() => (joined.lastMessage?.parts?.at(-1)?.text?.length ?? 0) > 500);
    await post(`${urls.none}/vercel/chat/${name}/stop`);
    await again;
    return { ...(await joined.report()), kept: chat.messages.length };
  });
  define(`${version}.durable.none.lost-start`, async (name) => {
    const headers = () => ({ "X-Run-Id": crypto.randomUUID() });
    let lost = 0;
    const flaky = async (url, init) => {
      const response = await fetch(url, init);
      if (lost > 1) return response;
      lost += 1;
      await response.body.cancel();
      throw new TypeError("fetch failed"); // the server has it, the client does not know
    };
    const chat = await ask(name, "none", "rich 1", { fetch: durable(flaky), headers });
    return { lost, ...(await chat.report()) };
  });
  define(`${version}.plain.none.server-leaves`, async (name) =>
    (await ask(name, "none", "rich 3", { fetch: leaving(reconnect.vercel) })).report(),
  );
  define(`${version}.durable.none.server-leaves`, async (name) =>
    (await ask(name, "none", "rich 3", { fetch: durable(leaving(reconnect.vercel)) })).report(),
  );
  define(`${version}.durable.none.nothing-active`, async (name) => {
    const chat = new TestChat("none", { id: name });
    await chat.resumeStream();
    return chat.report();
  });
  define(`${version}.durable.none.refused`, async () => {
    const chat = await ask("not an id!", "none", "hello", { fetch: durable() });
    return chat.report();
  });
}

await runAll();
