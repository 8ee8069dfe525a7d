/** What the matrix's scripts share beside `../js/cases.mjs`. */

import { ALL, define, post, urls } from "../js/cases.mjs";

const { only } = JSON.parse(process.env.GAPLESS_TEST);

/** Runs `ask(cut, name)` for each case of a client behind each kind of cut. The message that begins it is `message(name)`. */
export function client(name, cases) {
  if (only.clients.length && !only.clients.includes(name)) return;
  const wanted = Object.entries(cases).filter(([kind]) => !only.cases.length || only.cases.includes(kind));
  for (const cut of ALL) {
    for (const [kind, ask] of wanted) define(`${name}.${cut}.${kind}`, (full) => ask(cut, full));
  }
}

export const messageOf = (name) => `${name.split(".").at(-1)} ${name}`;

/** The newest run of a case. */
export async function runOf(name) {
  const query = new URLSearchParams({ message: messageOf(name) });
  return (await (await fetch(`${urls.none}/asked?${query}`)).json()).at(-1);
}

/** The end of what is said before a cancel. */
export const WAITING = "Say when.";
export const cancel = async (name) => post(`${urls.none}/runs/${await runOf(name)}/cancel`);

/** Answers what a run asks, for clients that have no word for it. */
export async function answer(name) {
  const { run, interrupts } = await asked(name);
  const resume = interrupts.map(({ id }) => ({ interruptId: id, status: "resolved", payload: { approved: true } }));
  await post(`${urls.none}/runs/${run}/input`, { resume });
}

/** What a run waits for. */
async function asked(name) {
  for (;;) {
    const run = await runOf(name);
    const page = await fetch(`${urls.none}/runs/${run}/events?limit=1000`, { headers: { accept: "application/json" } });
    const last = (await page.json()).events?.at(-1); // none before it has begun
    if (last?.outcome?.type === "interrupt") return { run, interrupts: last.outcome.interrupts };
    await new Promise((resolve) => setTimeout(resolve, 20));
  }
}
