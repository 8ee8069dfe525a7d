/** The AI SDK, 6 and 7, with Svelte: its `Chat`, compiled as Svelte's bundler plugin does (runes.mjs). */

import { Chat as Svelte7 } from "@ai-sdk/svelte";
import { Chat as Svelte6 } from "@ai-sdk/svelte6";
import * as ai6 from "ai6";
import * as ai7 from "ai7";

import { runAll } from "../js/cases.mjs";
import { chats } from "./chats.mjs";

chats("svelte-ai6", ai6, (options) => new Svelte6(options));
chats("svelte-ai7", ai7, (options) => new Svelte7(options));

await runAll();
