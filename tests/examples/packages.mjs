/**
 * Lets the examples find their packages: those that tests/js has installed, and `gapless-client`, which is a folder of
 * the server. `AI` names the version of the AI SDK: ai7 or ai6.
 */

import { registerHooks } from "node:module";

const EXAMPLES = new URL("../../examples/", import.meta.url).href;
const INSTALLED = new URL("../js/", import.meta.url).href;
const OURS = { ai: process.env.AI ?? "ai7", "gapless-client": new URL("../../src/gapless/server/gapless-client/client.js", import.meta.url).href };

registerHooks({
  resolve(specifier, context, next) {
    const fromExample = [EXAMPLES, import.meta.url.replace(/[^/]*$/, "")].some((folder) => context.parentURL?.startsWith(folder));
    if (!fromExample || /^(\.|node:|file:)/.test(specifier)) return next(specifier, context);
    return next(OURS[specifier] ?? specifier, { ...context, parentURL: INSTALLED });
  },
});
