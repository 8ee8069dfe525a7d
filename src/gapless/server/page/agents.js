/** The agent that answers, where there are several. */

import { hasKey, serversAgents } from "./api.js";
import { $, el } from "./dom.js";

const AGENT_ITEM = "gapless.agent";
const LIST_ITEM = "gapless.list-of-agent";

let agents = [];
let live = new Set(); // those that can be spoken to while they speak

export async function loadAgents() {
  if (agents.length > 0) return;
  try {
    const found = await serversAgents();
    agents = found.map(({ name }) => name);
    live = new Set(found.filter((one) => one.live).map(({ name }) => name));
  } catch {
    return; // the server's first agent answers, and the next focus tries again
  }
  $("agent").replaceChildren(...agents.map((name) => el("option", { value: name }, name)));
  $("agent").hidden = agents.length < 2;
  document.documentElement.toggleAttribute("data-agents", agents.length > 1);
  const all = el("option", { value: "" }, "All agents");
  $("of-agent").replaceChildren(all, ...agents.map((name) => el("option", { value: name }, name)));
  $("of-agent").hidden = agents.length < 2;
  const listed = localStorage.getItem(LIST_ITEM) ?? "";
  if (agents.length > 1 && agents.includes(listed)) {
    $("of-agent").value = listed;
    onList(listed);
  }
  showAgent(wantedAgent ?? localStorage.getItem(AGENT_ITEM));
}

let wantedAgent = null;
let onList = () => {};

/** `listen(name)` is told of the agent whose conversations are to be listed, undefined for those of all. */
export function whenListed(listen) {
  onList = listen;
}

/** Chooses an agent, unless the server has it no more. */
export function showAgent(name) {
  wantedAgent = name;
  if (agents.includes(name)) $("agent").value = name;
}

/** The agent to ask, or undefined for the server's only one. */
export function chosenAgent() {
  return agents.length > 1 ? $("agent").value : undefined;
}

/** Whether the agent to ask can be talked to, here. */
export function canTalk() {
  return !hasKey() && "AudioWorkletNode" in window && Boolean(navigator.mediaDevices) && live.has(chosenAgent() ?? agents[0]);
}

/** Several agents: each answer says whose it is. */
export function several() {
  return agents.length > 1;
}

$("agent").addEventListener("change", () => localStorage.setItem(AGENT_ITEM, $("agent").value));
$("of-agent").addEventListener("change", () => {
  const name = $("of-agent").value;
  localStorage.setItem(LIST_ITEM, name);
  onList(name || undefined);
});
