/** `@ag-ui/client`: its HttpAgent with its own checks, plain and over the durable fetch. */

import { HttpAgent } from "@ag-ui/client";

import { ALL, define, durable, go, leaving, post, reconnect, runAll, until, urls } from "./cases.mjs";

/** Runs an agent and reports what it made of the stream. */
async function run(agent, parameters = {}, subscriber = {}) {
  const types = [];
  let runError;
  let outcome;
  let result;
  try {
    result = await agent.runAgent(parameters, {
      ...subscriber,
      onEvent: ({ event }) => {
        types.push(event.type);
        if (event.type === "RUN_FINISHED") outcome = event.outcome?.type;
        if (event.type === "RUN_ERROR") runError = { code: event.code, message: event.message };
        subscriber.onEvent?.({ event });
      },
    });
  } catch (error) {
    runError ??= { code: "thrown", message: String(error) };
  }
  return { ...report(agent), result: result?.result, outcome, runError, first: types[0], last: types.at(-1) };
}

function report(agent) {
  const of = (role) => agent.messages.filter((message) => message.role === role);
  return {
    text: of("assistant").map((message) => message.content ?? "").join(""),
    reasoning: of("reasoning").map((message) => message.content).join(""),
    tools: of("assistant").flatMap((message) =>
      (message.toolCalls ?? []).map((call) => ({ name: call.function.name, arguments: call.function.arguments })),
    ),
    results: of("tool").map((message) => message.content),
    activities: of("activity").map((message) => message.content),
    state: agent.state,
    roles: agent.messages.map((message) => message.role),
    interrupts: agent.pendingInterrupts.length,
  };
}

function agentFor(name, cut, message, fetch) {
  const agent = new HttpAgent({ url: `${urls[cut]}/ag-ui`, threadId: name, fetch });
  if (message) agent.addMessage({ id: `${name}-u`, role: "user", content: message });
  return agent;
}

for (const cut of ALL) {
  define(`agui.plain.${cut}.rich`, (name) => run(agentFor(name, cut, "rich 3")));
  define(`agui.durable.${cut}.rich`, (name) => run(agentFor(name, cut, "rich 3", durable())));
  define(`agui.durable.${cut}.error`, (name) => run(agentFor(name, cut, "error 1", durable())));
  define(`agui.durable.${cut}.cancel`, async (name) => {
    const agent = agentFor(name, cut, "endless 1", durable());
    const runId = `${name}-run`;
    const done = run(agent, { runId });
    await until(() => (agent.messages.at(-1)?.role === "assistant" ? agent.messages.at(-1).content.length : 0) > 3000);
    await post(`${urls.none}/runs/${runId}/cancel`);
    return done;
  });
  define(`agui.durable.${cut}.approve`, async (name) => {
    const agent = agentFor(name, cut, "approve 1", durable());
    const asked = await run(agent);
    const [interrupt] = agent.pendingInterrupts;
    const resume = [{ interruptId: interrupt.id, status: "resolved", payload: { approved: true } }];
    return { asked, ...(await run(agent, { resume })) };
  });
  define(`agui.durable.${cut}.join`, async (name) => {
    const runId = `${name}-run`;
    const done = run(agentFor(name, "none", "held 1"), { runId });
    let response;
    do response = await fetch(`${urls.none}/runs/${runId}/events?wire=text`);
    while (!response.ok);
    const events = response.body.getReader();
    for (let bytes = 0; bytes < 1000; ) bytes += (await events.read()).value.length;
    await events.cancel();
    const join = durable();
    const late = agentFor(name, cut, null, (url, init) =>
      join(`${url}?runId=${runId}&join=snapshot`, { signal: init.signal }),
    );
    const starts = [];
    // What was cut before it had an id is joined anew: the run goes on when all of what it had said has come.
    const onEvent = ({ event }) => starts.push(event.type) === 4 && void go(name);
    const joined = await run(late, {}, { onEvent });
    return { whole: await done, starts, ...joined };
  });
}
define("agui.plain.none.server-leaves", (name) =>
  run(agentFor(name, "none", "rich 3", leaving(reconnect["ag-ui"]))),
);
define("agui.durable.none.server-leaves", (name) =>
  run(agentFor(name, "none", "rich 3", durable(leaving(reconnect["ag-ui"])))),
);
define("agui.durable.none.client-tool", async (name) => {
  const agent = agentFor(name, "none", "client-tool", durable());
  const tools = [{ name: "locate", description: "Where the user is", parameters: { type: "object" } }];
  const asked = await run(agent, { tools });
  const call = agent.messages.flatMap((message) => message.toolCalls ?? [])[0];
  agent.addMessage({ id: "found", role: "tool", toolCallId: call.id, content: "Zürich" });
  return { asked, ...(await run(agent, { tools })) };
});
define("agui.durable.none.turns", async (name) => {
  const agent = agentFor(name, "none", "one", durable());
  await run(agent);
  agent.addMessage({ id: "u2", role: "user", content: "two" });
  await run(agent);
  const stranger = agentFor(`${name}-other`, "none", null, durable());
  stranger.messages = structuredClone(agent.messages);
  stranger.addMessage({ id: "u3", role: "user", content: "three" });
  const other = await run(stranger);
  return { ...report(agent), other };
});
define("agui.durable.none.abort", async (name) => {
  const agent = agentFor(name, "none", "endless 1", durable());
  const runId = `${name}-run`;
  const done = run(agent, { runId });
  await until(() => agent.messages.length > 1);
  agent.abortRun();
  const { last } = await done;
  const record = await (await fetch(`${urls.none}/runs/${runId}`)).json();
  await post(`${urls.none}/runs/${runId}/cancel`);
  return { last, status: record.status };
});
define("agui.durable.none.refused", (name) => run(agentFor("not an id!", "none", "hello", durable())));

await runAll();
