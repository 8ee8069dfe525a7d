/** The agent that answers, where there are several. */

import { agentNames } from "./api.js";
import { $, el } from "./dom.js";

const AGENT_ITEM = "gapless.agent";

let agents = [];

export async function loadAgents() {
  if (agents.length > 0) return;
  try {
    agents = await agentNames();
  } catch {
    return; // the server's first agent answers, and the next focus tries again
  }
  $("agent").replaceChildren(...agents.map((name) => el("option", { value: name }, name)));
  $("agent").hidden = agents.length < 2;
  document.documentElement.toggleAttribute("data-agents", agents.length > 1);
  showAgent(wantedAgent ?? localStorage.getItem(AGENT_ITEM));
}

let wantedAgent = null;

/** Chooses an agent, unless the server has it no more. */
export function showAgent(name) {
  wantedAgent = name;
  if (agents.includes(name)) $("agent").value = name;
}

/** The agent to ask, or undefined for the server's only one. */
export function chosenAgent() {
  return agents.length > 1 ? $("agent").value : undefined;
}

/** Several agents: each answer says whose it is. */
export function several() {
  return agents.length > 1;
}

$("agent").addEventListener("change", () => localStorage.setItem(AGENT_ITEM, $("agent").value));
