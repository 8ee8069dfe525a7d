/**
 * The bell: whether this browser says that a run waits or has ended, also where no page is open. A service worker does
 * that (push-worker.js), with what the server sends through the browser's push service.
 */

import { authorised, baseUrl, beforeLeaving, getJson } from "./api.js";
import { $ } from "./dom.js";
import { announce, describe, showAlert } from "./say.js";

/** The server's public key; undefined where it tells no browsers. */
const { push: key } = document.documentElement.dataset;

/** Whether this browser is wanted to say it, until somebody says otherwise: its subscription may get lost. */
const WANTED_ITEM = "gapless.bell";

const REASONS = {
  insecure: "Notifications need https, and this page came without it.",
  unsupported: "This browser has no notifications for pages. On an iPhone or iPad they need the page on the home screen.",
  denied: "This browser does not allow notifications from here. That is changed in its settings for this site.",
};
const TEXTS = { on: "Notifications are on", off: "Notifications are off", ...REASONS };

/** Whether this is a browser in which it can be, whatever its user allows. */
const possible = isSecureContext && "serviceWorker" in navigator && "PushManager" in window && "Notification" in window;
const root = document.documentElement;

let registered; // a promise of the worker's registration
let working = false;

function stateNow() {
  if (!possible) return isSecureContext ? "unsupported" : "insecure";
  if (Notification.permission === "denied") return "denied";
  return Notification.permission === "granted" && localStorage.getItem(WANTED_ITEM) === "on" ? "on" : "off";
}

function show() {
  const state = stateNow();
  $("bell").dataset.state = state;
  $("bell").setAttribute("aria-pressed", String(state === "on"));
  $("bell").title = TEXTS[state];
}

async function register() {
  await navigator.serviceWorker.register(new URL("push-worker.js", baseUrl));
  return navigator.serviceWorker.ready;
}

/**
 * Subscribes, or finds that this browser has, and tells the server: each time, as it knows no browser for good. It is this
 * that asks for leave, where nobody has been asked: Safari does so at no other call, and only soon after a click.
 */
async function subscribe() {
  const { pushManager } = await registered;
  const options = { userVisibleOnly: true, applicationServerKey: key };
  let subscription;
  try {
    subscription = await pushManager.subscribe(options);
  } catch (error) {
    if (error.name !== "InvalidStateError") throw error;
    await (await pushManager.getSubscription()).unsubscribe(); // the server has another key now
    subscription = await pushManager.subscribe(options);
  }
  await authorised(() => getJson("push/subscriptions", subscription, "PUT"));
}

async function unsubscribe() {
  localStorage.removeItem(WANTED_ITEM);
  const subscription = await (await registered).pushManager.getSubscription();
  if (!subscription) return;
  const { endpoint } = subscription;
  await subscription.unsubscribe(); // from here on nothing comes, whether the server hears of it or not
  await getJson("push/subscriptions", { endpoint }, "DELETE");
}

async function turn() {
  const state = stateNow();
  showAlert(REASONS[state] ?? "");
  if (REASONS[state] || working) return;
  working = true;
  try {
    if (state === "on") {
      await unsubscribe();
    } else {
      await subscribe();
      localStorage.setItem(WANTED_ITEM, "on");
    }
    announce(TEXTS[stateNow()]);
  } catch (error) {
    if (error.name === "NotAllowedError") showAlert(REASONS[stateNow()] ?? ""); // or the question was left without an answer
    // Of a push service that is not there or not reached, browsers say little more than that.
    else showAlert(error instanceof DOMException ? "This browser's notification service cannot be reached." : describe(error));
  } finally {
    working = false;
    show();
  }
}

/** What push-worker.js says and asks. */
function hear({ data, ports }) {
  const inCall = !$("talking").hidden;
  if (data.type === "gapless.shown") ports[0].postMessage({ session: root.dataset.session, visible: !document.hidden, inCall });
  else if (data.type === "gapless.open") location.hash = encodeURIComponent(data.session);
  else if (data.type === "gapless.subscribed") renew();
}

async function renew() {
  try {
    if (stateNow() === "on") await subscribe();
  } catch {
    // the next page that is loaded tries again
  }
}

/** Takes back what was shown of the conversation that is seen here. */
async function clear() {
  if (document.hidden) return;
  const shown = await (await registered).getNotifications();
  for (const one of shown) if (one.data?.session === root.dataset.session) one.close();
}

if (key !== undefined) {
  $("bell").hidden = false;
  $("bell").addEventListener("click", turn);
  // Who uses this browser next is not to see what becomes of these conversations.
  beforeLeaving(async () => stateNow() === "on" && (await unsubscribe()));
  addEventListener("focus", show); // what is allowed may have been changed meanwhile
  addEventListener("storage", show);
  show();
}
if (key !== undefined && possible) {
  registered = register();
  registered.catch(() => {}); // whoever waits for it is told
  navigator.serviceWorker.addEventListener("message", hear);
  navigator.serviceWorker.startMessages();
  const look = () => clear().catch(() => {});
  new MutationObserver(look).observe(root, { attributeFilter: ["data-session"] });
  document.addEventListener("visibilitychange", look);
  look();
  renew();
}
