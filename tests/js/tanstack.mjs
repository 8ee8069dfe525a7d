/** TanStack AI's client, which resumes by itself: it posts again with `Last-Event-ID`, and joins by run id. */

import { ChatClient, fetchServerSentEvents } from "@tanstack/ai-client";

import { ALL, define, durable, go, leaving, post, reconnect as frame, runAll, until, urls } from "./cases.mjs";

const reconnect = { delayMs: 2, maxAttempts: 30 };

function clientFor(name, cut, { fetchClient, url, ...options } = {}) {
  const connection = fetchServerSentEvents(url ?? `${urls[cut]}/ag-ui`, { reconnect, fetchClient });
  const client = new ChatClient({ connection, threadId: name, ...options });
  client.attach();
  return client;
}

const partsOf = (client) =>
  client.getMessages().flatMap((message) => (message.role === "assistant" ? message.parts : []));

/** Says yes to what the run asks. The client knows no form for other servers' questions: it takes any answer for them. */
async function approve(client) {
  const asked = client.getPendingInterrupts();
  await client.resumeInterruptsUnsafe(
    asked.map(({ interruptId }) => ({ interruptId, status: "resolved", payload: { approved: true } })),
  );
  await until(() => client.getStatus() === "ready" && client.getPendingInterrupts().length === 0);
  return { asked: asked.map(({ message }) => message) };
}

function report(client) {
  const parts = partsOf(client);
  return {
    text: parts.filter((part) => part.type === "text").map((part) => part.content).join(""),
    reasoning: parts.filter((part) => part.type === "thinking").map((part) => part.content).join(""),
    tools: parts.filter((part) => part.type === "tool-call").map((part) => ({ name: part.name, arguments: part.arguments })),
    results: parts.filter((part) => part.type === "tool-result").map((part) => part.content),
    status: client.getStatus(),
    error: client.getError()?.message,
  };
}

async function ask(name, cut, text, options) {
  const client = clientFor(name, cut, options);
  await client.sendMessage(text);
  return client;
}

for (const cut of ALL) {
  define(`tanstack.native.${cut}.rich`, async (name) => report(await ask(name, cut, "rich 3")));
  define(`tanstack.durable.${cut}.rich`, async (name) =>
    report(await ask(name, cut, "rich 3", { fetchClient: durable() })),
  );
  define(`tanstack.native.${cut}.error`, async (name) => report(await ask(name, cut, "error 1")));
  define(`tanstack.native.${cut}.cancel`, async (name) => {
    const client = clientFor(name, cut);
    const done = client.sendMessage("endless 1");
    await until(() => report(client).text.length > 3000);
    await post(`${urls.none}/runs/${client.getCurrentRunId()}/cancel`);
    await done;
    return report(client);
  });
  define(`tanstack.native.${cut}.join`, async (name) => {
    const asked = clientFor(name, "none");
    const done = asked.sendMessage("held 1");
    await until(() => report(asked).text.length > 300);
    const runId = asked.getCurrentRunId();
    const { joinRun } = fetchServerSentEvents(`${urls[cut]}/ag-ui`, { reconnect });
    let text = "";
    for await (const chunk of joinRun(runId)) {
      if (chunk.type !== "TEXT_MESSAGE_CONTENT") continue;
      if (text === "") void go(name); // it is still coming when it is joined
      text += chunk.delta;
    }
    await done;
    return { text, asked: report(asked) };
  });
}
for (const cut of ALL) {
  define(`tanstack.native.${cut}.client-tool`, async (name) => {
    const client = await ask(name, cut, "client-tool 30");
    const [call] = partsOf(client).filter((part) => part.type === "tool-call");
    await client.addToolResult({ toolCallId: call.id, tool: call.name, output: "Zürich" });
    await until(() => client.getStatus() === "ready" && client.getMessages().length === 3);
    return { ...report(client), input: call.input };
  });
  define(`tanstack.native.${cut}.approve`, async (name) => {
    const client = await ask(name, cut, "approve 3");
    const approved = await approve(client);
    return { ...approved, ...report(client) };
  });
  define(`tanstack.native.${cut}.hydrate-active`, async (name) => {
    const first = clientFor(name, "none");
    const done = first.sendMessage("endless 1");
    await until(() => report(first).text.length > 3000);
    const second = clientFor(name, cut, { persistence: true });
    await until(() => report(second).text.length > 3000);
    await post(`${urls.none}/runs/${first.getCurrentRunId()}/cancel`);
    await done;
    await until(() => second.getStatus() === "ready");
    const shown = second.getMessages().map(({ role }) => role);
    return { ...report(second), same: report(first).text === report(second).text, shown };
  });
}
define("tanstack.native.none.hydrate-ended", async (name) => {
  const first = await ask(name, "none", "rich");
  await first.sendMessage("two");
  const second = clientFor(name, "none", { persistence: true });
  await until(() => second.getMessages().length > 0);
  const bare = (client) =>
    client.getMessages().map(({ createdAt, ...message }) => ({
      ...message,
      parts: message.parts.map(({ stepId, ...part }) => part),
    }));
  return { first: bare(first), second: bare(second) };
});
define("tanstack.native.none.hydrate-waiting", async (name) => {
  await ask(name, "none", "approve");
  const second = clientFor(name, "none", { persistence: true });
  await until(() => second.getPendingInterrupts().length > 0);
  return { before: report(second), ...(await approve(second)), ...report(second) };
});
define("tanstack.native.none.hydrate-nothing", async (name) => {
  const client = clientFor(name, "none", { persistence: true });
  const response = await fetch(`${urls.none}/ag-ui?threadId=${name}`);
  return { status: response.status, body: await response.json(), error: client.getError()?.message };
});
/** Cut between the last event and the end of the body: each of its ways to go on must find the end. */
define("tanstack.native.none.cut-at-the-end", async (name) => {
  let cut = 0;
  const fetchClient = async (url, init) => {
    const response = await fetch(url, init);
    let seen = "";
    const decoder = new TextDecoder();
    const body = response.body?.pipeThrough(
      new TransformStream({
        transform(chunk, controller) {
          const passed = seen.length;
          seen += decoder.decode(chunk, { stream: true });
          const last = seen.indexOf('"RUN_FINISHED"');
          if (cut || last < 0) return controller.enqueue(chunk);
          cut += 1;
          controller.enqueue(new TextEncoder().encode(seen.slice(passed, seen.indexOf("\n\n", last) + 2)));
          setTimeout(() => controller.error(new TypeError("terminated")), 20); // an error drops what was not read yet
        },
      }),
    );
    return new Response(body, response);
  };
  return { ...report(await ask(name, "none", "hello", { fetchClient })), cut };
});
define("tanstack.native.none.server-leaves", async (name) =>
  report(await ask(name, "none", "rich 3", { fetchClient: leaving(frame["ag-ui"]) })),
);
define("tanstack.native.none.turns", async (name) => {
  const client = await ask(name, "none", "one");
  await client.sendMessage("two");
  return report(client);
});

await runAll();
