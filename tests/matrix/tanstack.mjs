/** TanStack AI's client, which resumes by itself. */

import { ChatClient, fetchServerSentEvents } from "@tanstack/ai-client";

import { runAll, until, urls } from "../js/cases.mjs";
import { cancel, client, messageOf, WAITING } from "./shared.mjs";

function open(cut, threadId) {
  const told = { files: [], questions: 0 };
  const chat = new ChatClient({
    connection: fetchServerSentEvents(`${urls[cut]}/ag-ui`, { reconnect: { delayMs: 2, maxAttempts: 30 } }),
    threadId,
    onCustomEvent: (name, value) => {
      if (name === "gapless.file") told.files.push(fileOf(value));
    },
  });
  chat.attach();
  return { told, chat };
}

const fileOf = ({ mimeType, data, url }) => ({ type: mimeType, url: url ?? `data:${mimeType};base64,${data}` });
const partsOf = (chat) => chat.getMessages().flatMap(({ role, parts }) => (role === "assistant" ? parts : []));
const joined = (parts, kind) => parts.filter(({ type }) => type === kind).map(({ content }) => content).join("");

function report({ told, chat }) {
  const parts = partsOf(chat);
  const results = new Map(parts.filter(({ type }) => type === "tool-result").map((part) => [part.toolCallId, part]));
  return {
    ...told,
    text: joined(parts, "text"),
    reasoning: joined(parts, "thinking"),
    calls: parts.filter(({ type }) => type === "tool-call").map(({ id, name, arguments: given }) => ({
      name,
      arguments: given,
      ...(name === "locate" ? {} : { result: results.get(id)?.content, failed: results.get(id)?.error ?? null }),
    })),
    ...(chat.getStatus() === "error" ? { outcome: "failed" } : {}),
    error: chat.getError()?.message,
  };
}

const ask = async (cut, id) => {
  const page = open(cut, id);
  await page.chat.sendMessage(messageOf(id));
  return report(page);
};
const own = (result) => async (cut, id) => {
  const page = open(cut, id);
  await page.chat.sendMessage(messageOf(id));
  const call = partsOf(page.chat).find(({ type }) => type === "tool-call");
  await page.chat.addToolResult({ toolCallId: call.id, tool: call.name, ...result });
  await until(() => page.chat.getStatus() === "ready" && page.chat.getMessages().length === 3);
  return report(page);
};
client("tanstack", {
  text: ask,
  calls: ask,
  failed: ask,
  error: ask,
  media: ask,
  own: own({ output: "Zürich" }),
  own_failed: own({ output: null, state: "output-error", errorText: "no position" }),
  cancel: async (cut, id) => {
    const page = open(cut, id);
    const done = page.chat.sendMessage(messageOf(id));
    await until(() => joined(partsOf(page.chat), "text").endsWith(WAITING));
    await cancel(id);
    await done;
    return report(page);
  },
  questions: async (cut, id) => {
    const page = open(cut, id);
    await page.chat.sendMessage(messageOf(id));
    const asked = page.chat.getPendingInterrupts();
    page.told.questions = asked.length;
    const payload = { approved: true };
    await page.chat.resumeInterruptsUnsafe(
      asked.map(({ interruptId }) => ({ interruptId, status: "resolved", payload })),
    );
    await until(() => page.chat.getStatus() === "ready" && page.chat.getPendingInterrupts().length === 0);
    return report(page);
  },
});

await runAll();
