/** Starts the Chromium that the npm packages bring along, and a server for the page's files. */
import { spawnSync } from "node:child_process";
import { existsSync, mkdirSync, mkdtempSync, renameSync, rmSync, writeFileSync } from "node:fs";
import { readFile } from "node:fs/promises";
import { fileURLToPath } from "node:url";
import path from "node:path";

const FOLDERS = ["page", "gapless-client"].map((name) => fileURLToPath(new URL(`../../src/gapless/server/${name}/`, import.meta.url)));

const ARGS = [
  "--headless",
  "--no-sandbox",
  "--disable-gpu",
  "--disable-background-networking",
  "--disable-component-update",
  "--disable-sync",
  "--use-fake-device-for-media-stream", // a microphone that beeps,
  "--use-fake-ui-for-media-stream", // and who is asked says yes
];

/** Unpacks Chromium once, and returns its directory. Test files run side by side, so it appears there in one step. */
function unpacked() {
  const cache = fileURLToPath(new URL("node_modules/.cache/", import.meta.url));
  const home = path.join(cache, "chromium");
  if (existsSync(home)) return home;
  mkdirSync(cache, { recursive: true });
  const fresh = mkdtempSync(path.join(cache, "unpack-"));
  const script = 'import chromium from "@sparticuz/chromium"; await chromium.executablePath();';
  const { status, stderr } = spawnSync(process.execPath, ["--input-type=module", "--eval", script], {
    cwd: fileURLToPath(new URL(".", import.meta.url)),
    // It unpacks into the temporary directory; the second variable makes it unpack the libraries that it carries, too.
    env: { ...process.env, TMPDIR: fresh, AWS_LAMBDA_JS_RUNTIME: "nodejs20.x" },
    encoding: "utf8",
  });
  if (status !== 0) throw new Error(`Chromium could not be unpacked: ${stderr}`);
  writeFileSync(path.join(fresh, "fonts.conf"), fontsConf(path.join(home, "fonts")));
  try {
    renameSync(fresh, home);
  } catch (error) {
    rmSync(fresh, { recursive: true });
    if (!existsSync(home)) throw error; // otherwise another test file was first
  }
  return home;
}

/** The carried font first, so that text is drawn alike everywhere; the machine's own for the signs that it lacks. */
function fontsConf(directory) {
  return `<?xml version="1.0"?><!DOCTYPE fontconfig SYSTEM "fonts.dtd"><fontconfig>
    <dir>${directory}</dir><dir>/usr/share/fonts</dir><cachedir>${directory}/cache</cachedir>
    ${["sans-serif", "system-ui"].map((it) => `<alias binding="strong"><family>${it}</family><prefer><family>Open Sans</family></prefer></alias>`).join("")}
    </fontconfig>`;
}

/** The path of a Chromium that runs here, and the environment that it needs. */
export function chromium() {
  const home = unpacked();
  const executablePath = path.join(home, "chromium");
  const env = { ...process.env, FONTCONFIG_FILE: path.join(home, "fonts.conf") };
  const { stdout } = spawnSync("ldd", [executablePath], { env, encoding: "utf8" });
  if (stdout?.includes("not found")) {
    // The carried libraries only stand in for missing ones: the machine's own fit it better.
    env.LD_LIBRARY_PATH = [path.join(home, "al2023", "lib"), env.LD_LIBRARY_PATH].filter(Boolean).join(":");
  }
  return { executablePath, env };
}

/** A running browser; the caller closes it. */
export async function launch() {
  const { chromium: playwright } = await import("playwright-core");
  const { executablePath, env } = chromium();
  return playwright.launch({ executablePath, env, args: ARGS, headless: true });
}

const TYPES = { ".html": "text/html", ".js": "text/javascript", ".css": "text/css", ".svg": "image/svg+xml", ".json": "application/json" };

/** The file of the page behind a URL path below its base, as `{ type, body }`, or null. */
export async function staticFile(name) {
  const relative = name === "" ? "index.html" : name === "push-worker.js" ? name : name.startsWith("static/") ? name.slice("static/".length) : null;
  if (relative === null || relative.includes("..")) return null;
  for (const folder of FOLDERS) {
    try {
      return { type: `${TYPES[path.extname(relative)]}; charset=utf-8`, body: await readFile(path.join(folder, relative)) };
    } catch {
      // it is in the other one, or in none
    }
  }
  return null;
}
