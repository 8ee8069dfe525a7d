/** How each client is given a key.   node keys.mjs server key */
import { HttpAgent } from "@ag-ui/client";
import { fetchServerSentEvents } from "@tanstack/ai-client";
import { DefaultChatTransport } from "ai";
import { createDurableFetch, GaplessClient } from "gapless-client";
import OpenAI from "openai";

const [server, key] = process.argv.slice(2);
const headers = { Authorization: `Bearer ${key}` };
const fetch = createDurableFetch(); // sends the headers of the first request again when it resumes

export const own = new GaplessClient({ baseUrl: server, headers });
export const aiSdk = new DefaultChatTransport({ api: `${server}/vercel/chat`, headers, fetch });
export const agUi = new HttpAgent({ url: `${server}/ag-ui`, headers, fetch });
export const tanstack = fetchServerSentEvents(`${server}/ag-ui`, { headers });
export const openai = new OpenAI({ baseURL: `${server}/v1`, apiKey: key, fetch });
