/** `useChat` for a page that may be loaded anew, also in the middle of an answer: the server has the chat. */
import { useChat } from "@ai-sdk/react";
import { DefaultChatTransport, lastAssistantMessageIsCompleteWithApprovalResponses } from "ai";
import { createDurableFetch } from "gapless-client";

const api = "/vercel/chat";
const transport = new DefaultChatTransport({
  api,
  fetch: createDurableFetch(),
  prepareSendMessagesRequest: ({ id, messages, trigger, messageId, body }) => ({
    body: { ...body, id, trigger, messageId, messages: messages.slice(-1) }, // the server has those before
  }),
});

/** What a page begins with: `messages`, and `activeRunId` of the answer that is still coming, or null. */
export async function loadChat(id) {
  const response = await fetch(`${api}/${id}/messages`);
  if (!response.ok) throw new Error(`the chat cannot be loaded: ${response.status}`);
  return response.json();
}

const sendAutomaticallyWhen = lastAssistantMessageIsCompleteWithApprovalResponses; // else an answer stays on the page

export function useDurableChat(id, { messages, activeRunId }) {
  const resume = activeRunId !== null; // joins that answer
  const chat = useChat({ id, messages, transport, resume, sendAutomaticallyWhen });
  const stop = () => fetch(`${api}/${id}/stop`, { method: "POST" }); // useChat's own stop() only hangs up
  return { ...chat, stop };
}
