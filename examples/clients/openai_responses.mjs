/** OpenAI's client, responses: it resumes with what the API itself has for that.   node openai_responses.mjs [server] */
import OpenAI from "openai";

const ATTEMPTS_MAX = 60;
const server = process.argv[2] ?? "http://127.0.0.1:8000";
const client = new OpenAI({ baseURL: `${server}/v1`, apiKey: "none" });
const [model] = (await client.models.list()).data;

let response = await client.responses.create({ model: model.id, input: "Explain SSE", background: true });
let last;
for (let attempt = 1; ["queued", "in_progress"].includes(response.status); attempt += 1) {
  try {
    const stream = await client.responses.retrieve(response.id, { stream: true, starting_after: last });
    for await (const event of stream) {
      last = event.sequence_number;
      response = event.response ?? response;
      if (event.type === "response.output_text.delta") process.stdout.write(event.delta);
    }
  } catch (error) {
    if (error.status || attempt === ATTEMPTS_MAX) throw error; // refused, or not reached in so many attempts
  }
}
console.log(response.status === "completed" ? "" : `\n${response.status}`);
