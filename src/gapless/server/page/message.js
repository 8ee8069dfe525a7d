/** A user's message: text, or AG-UI's parts, of which pictures are shown and other files named. */

import { el } from "./dom.js";

const SHOWN = /^image\/(png|jpeg|gif|webp|avif|bmp)$/;

/** The text of a message; its files are left out. */
export function textIn(content) {
  if (typeof content === "string") return content;
  return (content ?? []).filter((part) => part.type === "text").map((part) => part.text).join("\n");
}

/** The same message with another text. */
export function withText(content, text) {
  const files = filesIn(content);
  if (files.length === 0) return text;
  return text === "" ? files : [{ type: "text", text }, ...files];
}

export function filesIn(content) {
  return typeof content === "string" ? [] : (content ?? []).filter((part) => part.type !== "text");
}

/** What a message looks like. */
export function messageNode(content) {
  const files = filesIn(content).map((part) => {
    const { type, value, mimeType = "" } = part.source ?? {};
    const name = part.metadata?.filename ?? (mimeType || part.type);
    if (type === "data" && SHOWN.test(mimeType)) return el("img", { src: `data:${mimeType};base64,${value}`, alt: name });
    return el("span", { class: "attached" }, name);
  });
  const text = textIn(content);
  return el("div", { class: "user", dir: "auto", "data-testid": "user" }, ...(files.length ? [el("div", { class: "files" }, ...files)] : []), text);
}
