/** Clients of AG-UI that hold a thread as an agent: `HttpAgent` of any version, and what is built on it. */

import { until } from "../js/cases.mjs";
import { cancel, client, messageOf, WAITING } from "./shared.mjs";

const tools = [{ name: "locate", description: "Where the user is", parameters: { type: "object", properties: {} } }];

/** `open(cut, id)` returns an agent of that thread; `run(agent, parameters, subscriber)` runs it. */
export function threads(name, open, run = (agent, ...request) => agent.runAgent(...request)) {
  const begin = async (cut, id) => {
    const told = { text: "", files: [], questions: 0 };
    const agent = await open(cut, id);
    agent.addMessage({ id: `${id}-u`, role: "user", content: messageOf(id) });
    return { told, agent };
  };
  /** One request, and what came of it. */
  const step = async ({ told, agent }, parameters = {}) => {
    const take = ({ event }) => {
      if (event.type === "CUSTOM" && event.name === "gapless.file") told.files.push(fileOf(event.value));
      if (event.type === "RUN_ERROR") Object.assign(told, { outcome: "failed", error: event.message });
      if (event.type === "RUN_FINISHED") told.outcome = OUTCOMES[event.outcome?.type] ?? "finished";
    };
    try {
      await run(agent, parameters, { onEvent: take });
    } catch (error) {
      told.outcome ??= "failed";
      told.error ??= String(error);
    }
    told.questions += agent.pendingInterrupts.length;
  };
  const ask = async (cut, id) => {
    const thread = await begin(cut, id);
    await step(thread);
    return report(thread);
  };
  const own = (result) => async (cut, id) => {
    const thread = await begin(cut, id);
    await step(thread, { tools });
    const call = thread.agent.messages.flatMap((message) => message.toolCalls ?? [])[0];
    thread.agent.addMessage({ id: `${id}-found`, role: "tool", toolCallId: call.id, ...result });
    await step(thread, { tools });
    return report(thread);
  };
  client(name, {
    text: ask,
    calls: ask,
    failed: ask,
    error: ask,
    media: ask,
    own: own({ content: "Zürich" }),
    own_failed: own({ content: "no position", error: "no position" }),
    cancel: async (cut, id) => {
      const thread = await begin(cut, id);
      const done = step(thread);
      await until(() => textOf(thread.agent).endsWith(WAITING));
      await cancel(id);
      await done;
      return report(thread);
    },
    questions: async (cut, id) => {
      const thread = await begin(cut, id);
      await step(thread);
      const asked = thread.agent.pendingInterrupts;
      const payload = { approved: true };
      await step(thread, { resume: asked.map(({ id }) => ({ interruptId: id, status: "resolved", payload })) });
      return report(thread);
    },
  });
}

const OUTCOMES = { success: "finished", cancelled: "cancelled", interrupt: "asking" };
const fileOf = ({ mimeType, data, url }) => ({ type: mimeType, url: url ?? `data:${mimeType};base64,${data}` });
const textOf = ({ messages }) =>
  messages.map(({ role, content }) => (role === "assistant" ? (content ?? "") : "")).join("");

function report({ told, agent: { messages } }) {
  const results = new Map(messages.filter(({ role }) => role === "tool").map((message) => [message.toolCallId, message]));
  const calls = messages.flatMap(({ toolCalls }) => toolCalls ?? []);
  return {
    ...told,
    text: textOf({ messages }),
    reasoning: messages.map(({ role, content }) => (role === "reasoning" ? content : "")).join(""),
    calls: calls.map(({ id, function: { name, arguments: given } }) => ({
      name,
      arguments: given,
      // What the page's own tool said is not in the journal as its result; the agent repeats it in its text.
      ...(name === "locate" ? {} : { result: results.get(id)?.content, failed: results.get(id)?.error ?? null }),
    })),
  };
}
