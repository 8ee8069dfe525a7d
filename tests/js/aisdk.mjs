/** The AI SDK, both versions, each with its own chat class: plain, resuming by itself, and over the durable fetch. */

import * as ai6 from "ai6";
import * as ai7 from "ai7";

import { ALL, CUTS, cuts, define, durable, go, leaving, post, reconnect, runAll, sleep, until, urls } from "./cases.mjs";

for (const [version, ai] of [["ai6", ai6], ["ai7", ai7]]) {
  class TestChat extends ai.AbstractChat {
    constructor(cut, { fetch, headers, prepareSendMessagesRequest, ...options }) {
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
      const transport = new ai.DefaultChatTransport({ api: `${urls[cut]}/vercel/chat`, fetch, headers, prepareSendMessagesRequest });
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

  /** What a page is given that opens on the chat. */
  const load = async (name) => {
    const { messages, activeRunId } = await (await fetch(`${urls.none}/vercel/chat/${name}/messages`)).json();
    const { success, error } = await ai.safeValidateUIMessages({ messages });
    return { messages, activeRunId, valid: success || String(error) };
  };
  /** What a page that streamed has, as JSON, beside what one is given that opens now. */
  const both = async (chat) => ({ kept: JSON.parse(JSON.stringify(chat.messages)), loaded: await load(chat.id) });

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
  for (const text of ["rich", "error", "typed"]) {
    define(`${version}.load.${text}`, async (name) => both(await ask(name, "none", text)));
  }
  define(`${version}.load.cancel`, async (name) => {
    const chat = new TestChat("none", { id: name });
    const done = chat.sendMessage({ text: "endless 1" });
    await until(() => (chat.lastMessage?.parts?.at(-1)?.text?.length ?? 0) > 300);
    await post(`${urls.none}/vercel/chat/${name}/stop`);
    await done;
    return both(chat);
  });
  for (const approved of [true, false]) {
    define(`${version}.load.approve-${approved}`, async (name) => {
      const asking = await both(await ask(name, "none", "approve"));
      const sendAutomaticallyWhen = ai.lastAssistantMessageIsCompleteWithApprovalResponses;
      const chat = new TestChat("none", { id: name, messages: asking.loaded.messages, sendAutomaticallyWhen });
      await chat.resumeStream();
      const { approval } = chat.lastMessage.parts.find((part) => part.state === "approval-requested");
      const before = chat.finished.length;
      await chat.addToolApprovalResponse({ id: approval.id, approved, reason: "because" });
      await until(() => chat.finished.length > before && chat.status === "ready");
      return { asking, answered: await both(chat) };
    });
  }
  define(`${version}.load.client-tool`, async (name) => {
    const chat = new TestChat("none", {
      id: name,
      sendAutomaticallyWhen: ai.lastAssistantMessageIsCompleteWithToolCalls,
      onToolCall: ({ toolCall: { toolName, toolCallId } }) => {
        void chat.addToolOutput({ tool: toolName, toolCallId, output: 7 });
      },
    });
    await chat.sendMessage({ text: "client-tool" });
    await until(() => chat.finished.length === 2 && chat.status === "ready");
    return both(chat);
  });
  define(`${version}.load.while-it-comes`, async (name) => {
    const first = new TestChat("none", { id: name, messages: (await both(await ask(name, "none", "one"))).kept });
    const done = first.sendMessage({ text: "held 1" });
    await until(() => first.messages.length === 4 && first.lastMessage.parts.length > 5);
    const early = await load(name);
    const second = new TestChat("none", { id: name, messages: early.messages });
    const joined = second.resumeStream();
    await until(() => second.lastMessage?.role === "assistant");
    await go(name);
    await Promise.all([done, joined]);
    return { early, joined: JSON.parse(JSON.stringify(second.messages)), ...(await both(first)) };
  });
  define(`${version}.load.late`, async (name) => {
    const first = new TestChat("none", { id: name });
    const done = first.sendMessage({ text: "held 1" });
    await until(() => first.lastMessage?.role === "assistant" && first.lastMessage.parts.length > 3);
    const resumed = []; // what the second page's requests were answered with
    const plain = async (url, init) => {
      const response = await fetch(url, init);
      resumed.push(response.status);
      if (resumed.length > 1) return response;
      const [frame] = await Promise.all([response.body.getReader().read(), go(name), done]); // and the rest never comes
      return new Response(frame.value, response);
    };
    const second = new TestChat("none", { id: name, messages: (await load(name)).messages, fetch: plain });
    await second.resumeStream();
    await second.resumeStream();
    return { resumed, ...(await second.report()) };
  });
  define(`${version}.load.branches`, async (name) => {
    const chat = await ask(name, "none", "one");
    await chat.sendMessage({ text: "two" });
    await chat.regenerate();
    const regenerated = await both(chat);
    await chat.sendMessage({ text: "uno", messageId: chat.messages[0].id });
    const edited = await both(chat);
    await chat.sendMessage({ text: "dos" });
    return { regenerated, edited, on: await both(chat) };
  });
  // What an application can send whose server has the chat: the whole request less the old messages, and what the AI
  // SDK's documentation says.
  for (const [how, only] of Object.entries({
    last: ({ messages, ...body }) => ({ ...body, messages: messages.slice(-1) }),
    message: ({ id, messages }) => ({ id, message: messages.at(-1) }),
  })) {
    define(`${version}.alone.${how}`, async (name) => {
      const texts = [];
      const prepareSendMessagesRequest = ({ id, messages, trigger, messageId }) => ({
        body: only({ id, messages, trigger, messageId }),
      });
      const chat = await ask(name, "none", "one", { prepareSendMessagesRequest });
      const tell = async (done) => texts.push((await done, (await chat.report()).text));
      await tell();
      await tell(chat.sendMessage({ text: "two" }));
      await tell(chat.regenerate());
      await tell(chat.sendMessage({ text: "uno", messageId: chat.messages[0].id }));
      await tell(chat.regenerate({ messageId: chat.messages[1].id }));
      await tell(chat.sendMessage({ text: "dos" }));
      return { texts, ...(await both(chat)) };
    });
  }
  define(`${version}.alone.new-page`, async (name) => {
    await ask(name, "none", "one");
    const texts = [];
    for (const text of ["two", "three"]) texts.push((await (await ask(name, "none", text)).report()).text);
    return { texts, loaded: await load(name) };
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
