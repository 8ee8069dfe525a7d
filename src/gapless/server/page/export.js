/** A conversation as a file: Markdown to read, JSON with all that the server has of it. */

import { el, pretty } from "./dom.js";
import { askedIn, isEmpty, isSettled, textOf } from "./fold.js";
import { filesIn, textIn } from "./message.js";

/** The conversation as it is shown. `turns` are `{ message, agent, view }`. */
export function markdownOf(title, turns) {
  const parts = [`# ${title || "Conversation"}`];
  for (const { message, agent, view } of turns) {
    const files = filesIn(message).map((part) => `*[${part.metadata?.filename ?? part.type}]*`);
    parts.push("## You", [textIn(message), ...files].filter(Boolean).join("\n\n"), `## ${agent || "Answer"}`);
    for (const item of view.items) parts.push(...itemParts(item));
    if (view.error) parts.push(`**${view.error.code}**: ${view.error.message ?? ""}`);
    else if (view.status === "cancelled") parts.push("*Stopped.*");
    else if (view.status === "waiting") parts.push(...view.interrupts.map((one) => `*A question waits for an answer:* ${askedIn(one)}`));
    else if (!isSettled(view.status)) parts.push("*The answer is still coming.*");
    else if (isEmpty(view)) parts.push("*The answer is empty.*");
  }
  return `${parts.filter((part) => part !== "").join("\n\n")}\n`;
}

function itemParts(item) {
  if (item.kind === "text") return [textOf(item)];
  if (item.kind === "file") return [`*[${item.name || item.mimeType}]*`];
  if (item.kind !== "tool") return [];
  const result = item.denied ? ["*Denied.*"] : item.result === null ? [] : [fenced(pretty(item.result))];
  return [`**${item.name}**`, fenced(pretty(textOf(item))), ...result];
}

function fenced(text) {
  let length = 3;
  for (const [run] of text.matchAll(/`+/g)) length = Math.max(length, run.length + 1); // they may be more than arguments can
  const fence = "`".repeat(length);
  return `${fence}\n${text}\n${fence}`;
}

/** Saves a text under a name that the title gives. */
export function save(title, extension, type, text) {
  const name = title.normalize("NFKC").replace(/[^\p{L}\p{N}]+/gu, "-").replace(/^-|-$/g, "").slice(0, 60) || "conversation";
  const url = URL.createObjectURL(new Blob([text], { type }));
  el("a", { href: url, download: `${name}.${extension}` }).click();
  setTimeout(() => URL.revokeObjectURL(url), 60_000); // the browser reads it meanwhile
}
