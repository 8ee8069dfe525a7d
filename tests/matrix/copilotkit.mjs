/** CopilotKit: its runtime, which asks the agent over the network that cuts, and its core, as a page has it. */

import { createServer } from "node:http";

import { HttpAgent } from "@ag-ui/client-before";
import { CopilotKitCore } from "@copilotkit/core";
import { CopilotRuntime } from "@copilotkit/runtime/v2";
import { createCopilotNodeListener } from "@copilotkit/runtime/v2/node";

import { ALL, durable, runAll, until, urls } from "../js/cases.mjs";
import { threads } from "./threads.mjs";

/** An agent for each network. */
const agents = Object.fromEntries(
  ALL.map((cut) => [cut, new HttpAgent({ url: `${urls[cut]}/ag-ui`, fetch: durable() })]),
);
const server = createServer(createCopilotNodeListener({ runtime: new CopilotRuntime({ agents }), basePath: "/api" }));
await new Promise((listening) => server.listen(0, "127.0.0.1", listening));
globalThis.window = globalThis; // without one the core asks no runtime
const core = new CopilotKitCore({ runtimeUrl: `http://127.0.0.1:${server.address().port}/api` });
await until(() => core.getAgent("none"));

threads("copilotkit", (cut, id) => {
  const agent = core.getAgent(cut).clone();
  agent.threadId = id;
  return agent;
});

await runAll();
