/** `EventSource`, which resumes by itself: a run's events, and the endpoint that starts one. */

import { EventSource } from "eventsource";

import { ALL, define, post, runAll, urls } from "./cases.mjs";

/** Listens until the server says that there is no more. */
function listen(url, onEvent, ends) {
  return new Promise((resolve, reject) => {
    const source = new EventSource(url);
    const ids = [];
    source.onmessage = ({ data, lastEventId }) => {
      ids.push(lastEventId);
      onEvent(data);
      if (ends(data)) {
        source.close();
        resolve(ids);
      }
    };
    source.onerror = (error) => {
      if (source.readyState === EventSource.CLOSED) reject(new Error(`closed: ${error.code} ${error.message}`));
    };
  });
}

for (const cut of ALL) {
  define(`eventsource.native.${cut}.rich`, async (name) => {
    const { id } = await post(`${urls.none}/runs`, { message: "rich 4", session_id: name, run_id: `${name}-run` });
    let text = "";
    const ids = await listen(
      `${urls[cut]}/runs/${id}/events`,
      (data) => {
        const event = JSON.parse(data);
        if (event.type === "TEXT_MESSAGE_CONTENT") text += event.delta;
      },
      (data) => data.includes('"RUN_FINISHED"'),
    );
    return { text, unique: new Set(ids).size === ids.length };
  });
  define(`eventsource.native.${cut}.chat`, async (name) => {
    let text = "";
    const query = new URLSearchParams({ query: "rich 4", session_id: name });
    const ids = await listen(
      `${urls[cut]}/chat/stream?${query}`,
      (data) => (text += data === "[DONE]" ? "" : (JSON.parse(data).text ?? "")),
      (data) => data === "[DONE]",
    );
    return { text, unique: new Set(ids).size === ids.length };
  });
}

await runAll();
