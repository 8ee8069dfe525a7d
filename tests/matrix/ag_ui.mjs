/** `@ag-ui/client`, the newest and the one before 1.0 that CopilotKit has. */

import { HttpAgent } from "@ag-ui/client";
import { HttpAgent as HttpAgentBefore } from "@ag-ui/client-before";

import { durable, runAll, urls } from "../js/cases.mjs";
import { threads } from "./threads.mjs";

for (const [name, Agent] of [["ag-ui-1", HttpAgent], ["ag-ui-0", HttpAgentBefore]]) {
  threads(name, (cut, id) => new Agent({ url: `${urls[cut]}/ag-ui`, threadId: id, fetch: durable() }));
}

await runAll();
