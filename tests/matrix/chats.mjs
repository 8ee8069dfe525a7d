/** The AI SDK's chats of every framework, which differ in how a page is given what they hold. */

import { durable, until, urls } from "../js/cases.mjs";
import { cancel, client, messageOf, WAITING } from "./shared.mjs";

/** `open({ id, transport, … })` returns the chat: `messages`, `status`, `error` as the page has them now, and its methods. */
export function chats(name, ai, open) {
  const begin = (cut, id, options = {}) => {
    const told = { questions: 0, done: 0 };
    const chat = open({
      id,
      transport: new ai.DefaultChatTransport({ api: `${urls[cut]}/vercel/chat`, fetch: durable() }),
      onFinish: ({ finishReason }) => Object.assign(told, { finishReason, done: told.done + 1 }),
      onError: () => {},
      ...options,
    });
    return { told, chat, said: () => textOf(chat), send };
    // React's hook has its functions once the page has been drawn.
    async function send() {
      await until(() => chat.sendMessage);
      await chat.sendMessage({ text: messageOf(id) });
    }
  };
  const settled = ({ told, chat }, times = 1) => until(() => told.done >= times && ["ready", "error"].includes(chat.status));
  const ask = async (cut, id) => {
    const page = begin(cut, id);
    void page.send();
    await settled(page);
    return report(page);
  };
  const own = (output) => async (cut, id) => {
    const page = begin(cut, id, {
      sendAutomaticallyWhen: ai.lastAssistantMessageIsCompleteWithToolCalls,
      onToolCall: ({ toolCall: { toolName: tool, toolCallId } }) => {
        void page.chat.addToolOutput({ tool, toolCallId, ...output });
      },
    });
    void page.send();
    await settled(page, 2);
    return report(page);
  };
  client(name, {
    text: ask,
    calls: ask,
    failed: ask,
    error: ask,
    media: ask,
    own: own({ output: "Zürich" }),
    own_failed: own({ state: "output-error", errorText: "no position" }),
    cancel: async (cut, id) => {
      const page = begin(cut, id);
      void page.send();
      await until(() => page.said().endsWith(WAITING));
      await cancel(id);
      await settled(page);
      return report(page);
    },
    questions: async (cut, id) => {
      const sendAutomaticallyWhen = ai.lastAssistantMessageIsCompleteWithApprovalResponses;
      const page = begin(cut, id, { sendAutomaticallyWhen });
      void page.send();
      const asks = () => page.chat.messages.at(-1)?.parts?.find((part) => part.state === "approval-requested");
      await settled(page);
      await until(asks);
      page.told.questions += 1;
      await page.chat.addToolApprovalResponse({ id: asks().approval.id, approved: true });
      await settled(page, 2);
      return report(page);
    },
  });
}

const partsOf = ({ messages }) =>
  (messages ?? []).filter(({ role }) => role === "assistant").flatMap((message) => message.parts);
const joined = (parts, kind) => parts.filter(({ type }) => type === kind).map(({ text }) => text).join("");
const textOf = (chat) => joined(partsOf(chat), "text");

function report({ told, chat }) {
  const parts = partsOf(chat);
  return {
    text: joined(parts, "text"),
    reasoning: joined(parts, "reasoning"),
    calls: parts.filter(({ type }) => type.startsWith("tool-")).map(({ type, input, output, errorText }) => ({
      name: type.slice("tool-".length),
      arguments: input,
      // What the page's own tool said is not in the journal as its result; the agent repeats it in its text.
      ...(type === "tool-locate" ? {} : { result: output, failed: errorText ?? null }),
    })),
    files: parts.filter(({ type }) => type === "file").map(({ mediaType, url }) => ({ type: mediaType, url })),
    questions: told.questions,
    outcome: chat.status === "error" ? "failed" : told.finishReason ? "finished" : "cancelled",
    error: chat.error?.message,
  };
}
