/** The `openai` client: chat completions and responses, plain, resuming by `starting_after`, over the durable fetch. */

import OpenAI from "openai";

import { ALL, CUTS, define, durable, runAll, urls } from "./cases.mjs";

const clientFor = (cut, fetch) =>
  new OpenAI({ baseURL: `${urls[cut]}/v1`, apiKey: "none", maxRetries: 0, fetch, defaultHeaders: {} });

async function chat(cut, message, fetch) {
  const told = { text: "", finishReason: undefined, id: undefined };
  try {
    const stream = await clientFor(cut, fetch).chat.completions.create({
      model: "rich",
      stream: true,
      stream_options: { include_usage: true },
      messages: [{ role: "user", content: message }],
    });
    for await (const chunk of stream) {
      told.id ??= chunk.id;
      const [choice] = chunk.choices;
      told.text += choice?.delta.content ?? "";
      told.finishReason = choice?.finish_reason ?? told.finishReason;
      told.usage = chunk.usage ?? told.usage;
    }
  } catch (error) {
    told.error = { name: error.constructor.name, message: error.message };
  }
  return told;
}

/** Takes a stream's events into `told`. */
async function take(stream, told) {
  for await (const event of stream) {
    told.id ??= event.response?.id;
    told.gaps += event.sequence_number !== told.at + 1 && !told.merges;
    told.at = event.sequence_number;
    if (event.type === "response.output_text.delta") told.text += event.delta;
    if (event.type === "response.completed") told.whole = event.response.output_text ?? event.response.output.length;
    told.last = event.type;
  }
}

const asked = (message) => ({ model: "rich", input: message, stream: true });
const fresh = () => ({ text: "", at: -1, gaps: 0, merges: true });

for (const cut of ALL) {
  define(`openai.plain.${cut}.chat-rich`, () => chat(cut, "rich 3"));
  define(`openai.durable.${cut}.chat-rich`, () => chat(cut, "rich 3", durable()));
  define(`openai.durable.${cut}.chat-error`, () => chat(cut, "error 3", durable()));
  define(`openai.durable.${cut}.responses-rich`, async () => {
    const told = fresh();
    await take(await clientFor(cut, durable()).responses.create(asked("rich 3")), told);
    return told;
  });
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
