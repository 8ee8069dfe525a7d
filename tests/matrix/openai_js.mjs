/** Clients of OpenAI's APIs in JavaScript: OpenAI's own, LangChain's, and OpenAI's Agents SDK. */

import { AIMessage, HumanMessage, ToolMessage } from "@langchain/core/messages";
import { ChatOpenAI } from "@langchain/openai";
import { Agent, OpenAIChatCompletionsModel, OpenAIResponsesModel, Runner, tool } from "@openai/agents";
import OpenAI from "openai";

import { durable, runAll, urls } from "../js/cases.mjs";
import { answer, cancel, client, messageOf, WAITING } from "./shared.mjs";

const MODEL = "agent";
const parameters = { type: "object", properties: {} };
const description = "Where the user is";
const RESULTS = { own: "Zürich", own_failed: "Error: no position" };
const openAI = (cut) => new OpenAI({ baseURL: `${urls[cut]}/v1`, apiKey: "none", fetch: durable() });
const caseOf = (id) => id.split(".").at(-1);
const isOwn = (id) => caseOf(id) in RESULTS;

/** `ask(cut, id, told, shown)` fills `told`; it calls `shown()` after each piece of text. */
function asker(name, key, ask) {
  const one = async (cut, id) => {
    const told = { [key]: "", links: true };
    let cancelled = false;
    const shown = () => {
      if (cancelled || !told[key].endsWith(WAITING)) return;
      cancelled = true;
      void cancel(id);
    };
    try {
      await ask(cut, id, told, shown);
    } catch (error) {
      told.error = `${error.constructor.name} ${error.code ?? error.cause?.code ?? ""} ${error.message}`;
      told.outcome = /cancelled/.test(told.error) ? "cancelled" : "failed";
    }
    return told;
  };
  const asked = async (cut, id) => (await Promise.all([one(cut, id), answer(id)]))[0];
  const cases = ["text", "calls", "failed", "error", "media", "own", "own_failed", "cancel"];
  client(name, { ...Object.fromEntries(cases.map((kind) => [kind, one])), questions: asked });
}

// -- OpenAI's own -----------------------------------------------------------------------------------------------------

asker("openai-js-chat", "one_text", async (cut, id, told, shown) => {
  const messages = [{ role: "user", content: messageOf(id) }];
  const tools = isOwn(id) ? [{ type: "function", function: { name: "locate", description, parameters } }] : undefined;
  for (;;) {
    const stream = openAI(cut).chat.completions.stream({ model: MODEL, messages, tools });
    stream.on("content", (delta) => {
      told.one_text += delta;
      shown();
    });
    const { message, finish_reason: reason } = (await stream.finalChatCompletion()).choices[0];
    told.outcome = "finished";
    if (reason !== "tool_calls") return;
    told.calls = message.tool_calls.map(({ function: { name, arguments: given } }) => ({ name, arguments: given }));
    messages.push(message, { role: "tool", tool_call_id: message.tool_calls[0].id, content: RESULTS[caseOf(id)] });
  }
});

const ENDS = { completed: "finished", failed: "failed", cancelled: "cancelled", incomplete: "incomplete" };
/** The calls among a response's items: the agent's own, and the client's. */
const callsOf = (output) =>
  output
    .filter(({ type }) => ["mcp_call", "function_call"].includes(type))
    .map(({ type, name, arguments: given, output: result, error }) => ({
      name,
      arguments: given,
      ...(type === "function_call" ? {} : { failed: error ? true : null, ...(error ? {} : { result }) }),
    }));

asker("openai-js-responses", "text", async (cut, id, told, shown) => {
  const tools = isOwn(id) ? [{ type: "function", name: "locate", description, parameters, strict: false }] : undefined;
  let request = { input: messageOf(id) };
  told.reasoning = "";
  told.calls = [];
  for (;;) {
    const stream = await openAI(cut).responses.create({ model: MODEL, stream: true, tools, ...request });
    let response;
    for await (const event of stream) {
      if (event.type === "response.output_text.delta") told.text += event.delta;
      if (event.type === "response.reasoning_text.delta") told.reasoning += event.delta;
      response = event.response ?? response;
      shown();
    }
    told.outcome = ENDS[response.status];
    told.calls.push(...callsOf(response.output));
    const call = response.output.find(({ type }) => type === "function_call");
    if (!call) return;
    const output = { type: "function_call_output", call_id: call.call_id, output: RESULTS[caseOf(id)] };
    request = { input: [output], previous_response_id: response.id };
  }
});

// -- LangChain --------------------------------------------------------------------------------------------------------

for (const [name, useResponsesApi] of [["langchain-js-chat", false], ["langchain-js-responses", true]]) {
  asker(name, useResponsesApi ? "text" : "one_text", async (cut, id, told, shown) => {
    const key = useResponsesApi ? "text" : "one_text";
    const configuration = { baseURL: `${urls[cut]}/v1`, fetch: durable() };
    let model = new ChatOpenAI({ model: MODEL, apiKey: "none", configuration, useResponsesApi });
    if (isOwn(id)) model = model.bindTools([{ type: "function", function: { name: "locate", description, parameters } }]);
    const messages = [new HumanMessage(messageOf(id))];
    for (;;) {
      let whole;
      for await (const chunk of await model.stream(messages)) {
        told[key] += chunk.text;
        whole = whole ? whole.concat(chunk) : chunk;
        shown();
      }
      told.outcome = ENDS[whole.response_metadata?.status] ?? "finished";
      const [call] = whole.tool_calls ?? [];
      if (!call) return;
      told.calls = whole.tool_calls.map(({ name, args }) => ({ name, arguments: args }));
      messages.push(new AIMessage(whole), new ToolMessage({ tool_call_id: call.id, content: RESULTS[caseOf(id)] }));
    }
  });
}

// -- the Agents SDK ---------------------------------------------------------------------------------------------------

for (const [name, Model] of [["agents-js-chat", OpenAIChatCompletionsModel], ["agents-js-responses", OpenAIResponsesModel]]) {
  const key = Model === OpenAIResponsesModel ? "text" : "one_text";
  asker(name, key, async (cut, id, told, shown) => {
    const locate = tool({
      name: "locate",
      description,
      parameters: { ...parameters, required: [], additionalProperties: true },
      strict: false,
      execute: () => {
        if (caseOf(id) === "own_failed") throw new Error("no position");
        return RESULTS[caseOf(id)];
      },
    });
    const agent = new Agent({ name: "asks", model: new Model(openAI(cut), MODEL), tools: isOwn(id) ? [locate] : [] });
    const result = await new Runner({ tracingDisabled: true }).run(agent, messageOf(id), { stream: true });
    for await (const { type, data } of result) {
      if (type === "raw_model_stream_event" && data.type === "output_text_delta") told[key] += data.delta;
      shown();
    }
    await result.completed;
    if (result.error) throw result.error;
    const calls = result.newItems.filter(({ type }) => type === "tool_call_item").map(({ rawItem }) => rawItem);
    if (isOwn(id)) told.calls = calls.map(({ name, arguments: given }) => ({ name, arguments: given }));
    told.outcome = "finished";
  });
}

await runAll();
