/** Readers of event streams, on `GET /runs/{id}/events`: what each does by itself, or over the durable fetch. */

import { EventSource } from "eventsource";
import { createEventSource } from "eventsource-client";
import { createParser } from "eventsource-parser";
import { fetchEventSource } from "@microsoft/fetch-event-source";
import { events } from "fetch-event-stream";

import { durable, post, runAll, urls } from "../js/cases.mjs";
import { answer, cancel, client, messageOf, WAITING } from "./shared.mjs";

/** Each reads on from `last` until `take(data, id)` says that there is no more. */
const readers = {
  eventsource: (url, last, take) =>
    new Promise((resolve, reject) => {
      const source = new EventSource(after(url, last));
      source.onmessage = ({ data, lastEventId }) => take(data, lastEventId) && (source.close(), resolve());
      source.onerror = ({ message }) => source.readyState === EventSource.CLOSED && reject(new Error(message));
    }),
  "eventsource-client": async (url, last, take) => {
    const source = createEventSource({ url, initialLastEventId: last });
    for await (const { data, id } of source) if (take(data, id)) break;
    source.close();
  },
  "fetch-event-source": (...request) => fetched(globalThis.fetch, ...request),
  "fetch-event-source-durable": (...request) => fetched(durable(), ...request),
  "eventsource-parser": async (url, last, take) => {
    const { body } = await durable()(after(url, last));
    let done = false;
    const parser = createParser({ onEvent: ({ data, id }) => void (done ||= take(data, id)) });
    for await (const text of body.pipeThrough(new TextDecoderStream())) {
      parser.feed(text);
      if (done) break;
    }
  },
  "fetch-event-stream": async (url, last, take) => {
    for await (const { data, id } of events(await durable()(after(url, last)))) if (data && take(data, id)) break;
  },
};

async function fetched(fetch, url, last, take) {
  const stop = new AbortController();
  await fetchEventSource(url, {
    fetch,
    headers: last ? { "Last-Event-ID": last } : {},
    signal: stop.signal,
    openWhenHidden: true,
    onmessage: ({ data, id }) => data && take(data, id) && stop.abort(),
    onclose: () => {
      if (!stop.signal.aborted) throw new Error("cut"); // or it would take any end for the end
    },
    onerror: () => 5,
  });
}
const after = (url, last) => (last ? `${url}?after=${last}` : url);
// What a page has and Node has not.
Object.assign(globalThis, {
  window: globalThis,
  document: { hidden: false, addEventListener: () => {}, removeEventListener: () => {} },
});

/** Takes events as they come. */
class Shown {
  last = undefined;
  told = { text: "", reasoning: "", calls: [], files: [], questions: 0 };
  #calls = new Map();

  take(data, id) {
    const event = JSON.parse(data);
    this.last = id;
    if (event.type === "TEXT_MESSAGE_CONTENT") this.told.text += event.delta;
    if (event.type === "REASONING_MESSAGE_CONTENT") this.told.reasoning += event.delta;
    if (event.type === "TOOL_CALL_START") {
      this.#calls.set(event.toolCallId, { name: event.toolCallName, arguments: "" });
      this.told.calls.push(this.#calls.get(event.toolCallId));
    }
    if (event.type === "TOOL_CALL_ARGS") this.#calls.get(event.toolCallId).arguments += event.delta;
    if (event.type === "TOOL_CALL_RESULT") {
      Object.assign(this.#calls.get(event.toolCallId), { result: event.content, failed: event.error ?? null });
    }
    if (event.type === "CUSTOM" && event.name === "gapless.file") {
      const { mimeType: type, data, url } = event.value;
      this.told.files.push({ type, url: url ?? `data:${type};base64,${data}` });
    }
    if (event.type === "RUN_ERROR") Object.assign(this.told, { outcome: "failed", error: event.message });
    const outcome = event.type === "RUN_FINISHED" ? (event.outcome?.type ?? "success") : undefined;
    if (outcome) this.told.outcome = { success: "finished" }[outcome] ?? outcome;
    if (outcome === "interrupt") this.told.questions += event.outcome.interrupts.length;
    return ["RUN_ERROR", "RUN_FINISHED"].includes(event.type);
  }
}

for (const [name, read] of Object.entries(readers)) {
  const begin = async (cut, id) => {
    const run = (await post(`${urls.none}/runs`, { message: messageOf(id), run_id: `${id}-run` })).id;
    return { url: `${urls[cut]}/runs/${run}/events`, shown: new Shown() };
  };
  const ask = async (cut, id) => {
    const { url, shown } = await begin(cut, id);
    await read(url, undefined, (...frame) => shown.take(...frame));
    return shown.told;
  };
  client(name, {
    text: ask,
    calls: ask,
    failed: ask,
    error: ask,
    media: ask,
    cancel: async (cut, id) => {
      const { url, shown } = await begin(cut, id);
      let cancelled = false;
      await read(url, undefined, (...frame) => {
        const done = shown.take(...frame);
        if (!cancelled && shown.told.text.endsWith(WAITING)) {
          cancelled = true;
          void cancel(id);
        }
        return done;
      });
      return shown.told;
    },
    questions: async (cut, id) => {
      const { url, shown } = await begin(cut, id);
      await read(url, undefined, (...frame) => shown.take(...frame));
      await answer(id);
      await read(url, shown.last, (...frame) => shown.take(...frame));
      return shown.told;
    },
  });
}

await runAll();
