/** `useChat` for a page that may be loaded anew in the middle of an answer. */
import { useChat } from "@ai-sdk/react";
import { DefaultChatTransport } from "ai";
import { createDurableFetch } from "gapless-client";

const api = "/vercel/chat";
const transport = new DefaultChatTransport({ api, fetch: createDurableFetch() });

export function useDurableChat(id) {
  const chat = useChat({ id, transport, resume: true }); // resume: a new page joins the answer that is coming
  const stop = () => fetch(`${api}/${id}/stop`, { method: "POST" }); // useChat's own stop() only hangs up
  return { ...chat, stop };
}
