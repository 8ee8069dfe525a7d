/** For `node --import`: compiles modules that are written in Svelte's runes, for a browser. */

import { registerHooks } from "node:module";
import { compileModule } from "svelte/compiler";

registerHooks({
  load(url, context, nextLoad) {
    const loaded = nextLoad(url, context);
    if (!/\.svelte\.js$/.test(url)) return loaded;
    const { js } = compileModule(loaded.source.toString(), { filename: url, generate: "client" });
    return { ...loaded, source: js.code };
  },
});
