/** The `openai` client: chat completions and responses, plain, resuming by `starting_after`, over the durable fetch. */

import OpenAI from "openai";

import { ALL, CUTS, define, durable, post, runAll, urls } from "./cases.mjs";

const clientFor = (cut, fetch) =>
  new OpenAI({ baseURL: `${urls[cut]}/v1`, apiKey: "none", maxRetries: 0, fetch, defaultHeaders: {} });

const parameters = { type: "object" };
const tools = [{ type: "function", function: { name: "locate", parameters } }];
const responseTools = [{ type: "function", name: "locate", parameters, strict: false }];

async function chat(cut, message, fetch, onChunk) {
  const told = { text: "", reasoning: "", calls: [], arguments: "", finishReason: undefined, id: undefined };
  try {
    const stream = await clientFor(cut, fetch).chat.completions.create({
      model: "rich",
      stream: true,
      stream_options: { include_usage: true },
      messages: [{ role: "user", content: message }],
      ...(message.startsWith("long-tool") ? { tools } : {}),
    });
    for await (const chunk of stream) {
      told.id ??= chunk.id;
      const [choice] = chunk.choices;
      told.text += choice?.delta.content ?? "";
      told.reasoning += choice?.delta.reasoning_content ?? "";
      for (const call of choice?.delta.tool_calls ?? []) {
        if (call.function.name) told.calls.push(call.function.name);
        told.arguments += call.function.arguments ?? "";
      }
      told.finishReason = choice?.finish_reason ?? told.finishReason;
      told.usage = chunk.usage ?? told.usage;
      await onChunk?.(told);
    }
  } catch (error) {
    told.error = { name: error.constructor.name, message: error.message, code: error.code };
  }
  return told;
}

/** Cancels the run once, in mid-answer. */
function canceller() {
  let cancelled = false;
  return async ({ text, id }) => {
    if (cancelled || text.length < 3000) return;
    cancelled = true;
    await post(`${urls.none}/runs/${id.replace(/^(chatcmpl-|resp_)/, "")}/cancel`);
  };
}

/** Takes a stream's events into `told`. */
async function take(stream, told, onEvent) {
  for await (const event of stream) {
    told.id ??= event.response?.id;
    told.gaps += event.sequence_number !== told.at + 1 && !told.merges;
    told.at = event.sequence_number;
    if (event.type === "response.output_text.delta") told.text += event.delta;
    if (event.type === "response.reasoning_text.delta") told.reasoning += event.delta;
    if (event.type === "response.function_call_arguments.delta") told.arguments += event.delta;
    if (event.type === "response.completed") told.kinds = event.response.output.map(({ type }) => type);
    told.last = event.type;
    told.status = event.response?.status ?? told.status;
    told.failure = event.response?.error?.type;
    await onEvent?.(told);
  }
}

const asked = (message) => ({ model: "rich", input: message, stream: true });
const fresh = () => ({ text: "", reasoning: "", arguments: "", at: -1, gaps: 0, merges: true });

for (const cut of ALL) {
  define(`openai.plain.${cut}.chat-rich`, () => chat(cut, "rich 3"));
  define(`openai.durable.${cut}.chat-rich`, () => chat(cut, "rich 3", durable()));
  define(`openai.durable.${cut}.chat-error`, () => chat(cut, "error 3", durable()));
  define(`openai.durable.${cut}.chat-tool`, () => chat(cut, "long-tool 2", durable()));
  define(`openai.durable.${cut}.chat-cancel`, () => chat(cut, "endless 1", durable(), canceller()));
  for (const [name, message] of [["rich", "rich 3"], ["error", "error 3"], ["cancel", "endless 1"], ["tool", "long-tool 2"]]) {
    define(`openai.durable.${cut}.responses-${name}`, async () => {
      const told = fresh();
      const onEvent = name === "cancel" ? canceller() : undefined;
      const request = { ...asked(message), ...(name === "tool" ? { tools: responseTools } : {}) };
      await take(await clientFor(cut, durable()).responses.create(request), told, onEvent);
      return told;
    });
  }
  define(`openai.plain.${cut}.responses-rich`, async () => {
    const told = fresh();
    try {
      await take(await clientFor(cut).responses.create(asked("rich 3")), told);
    } catch (error) {
      told.error = { name: error.constructor.name, message: error.message };
    }
    return told;
  });
}
for (const cut of CUTS) {
  define(`openai.native.${cut}.responses-rich`, async () => {
    const told = fresh();
    const client = clientFor(cut);
    const attempt = async (start) => {
      try {
        await take(await start(), told);
      } catch {
        // cut off
      }
    };
    await attempt(() => client.responses.create({ ...asked("rich 3"), background: true }));
    for (let tries = 0; told.last !== "response.completed" && tries < 40; tries += 1) {
      await attempt(() => client.responses.retrieve(told.id, { stream: true, starting_after: told.at }));
    }
    return told;
  });
}

await runAll();
