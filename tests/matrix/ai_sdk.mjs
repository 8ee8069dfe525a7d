/** The AI SDK, 6 and 7, with React and Vue: what the page is given by the hook or the composable. */

import { useChat as useReact7 } from "@ai-sdk/react";
import { useChat as useReact6 } from "@ai-sdk/react6";
import { useChat as useVue7 } from "@ai-sdk/vue";
import { Chat as Vue6 } from "@ai-sdk/vue6";
import * as ai6 from "ai6";
import * as ai7 from "ai7";
import { createElement } from "react";
import { create } from "react-test-renderer";

import { runAll } from "../js/cases.mjs";
import { chats } from "./chats.mjs";

const react = (useChat) => (options) => {
  const shown = {};
  const Page = () => void Object.assign(shown, useChat(options)) ?? null;
  create(createElement(Page));
  return shown;
};
/** Its refs, as a template has them. */
const vue = (useChat) => (options) => {
  const { messages, status, error, ...chat } = useChat(options);
  return Object.defineProperties(chat, {
    messages: { get: () => messages.value },
    status: { get: () => status.value },
    error: { get: () => error.value },
  });
};

chats("react-ai6", ai6, react(useReact6));
chats("react-ai7", ai7, react(useReact7));
chats("vue-ai6", ai6, (options) => new Vue6(options));
chats("vue-ai7", ai7, vue(useVue7));

await runAll();
