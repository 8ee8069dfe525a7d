/**
 * Shows what the server tells this browser of its user's runs, where no page shows it already. It is no module, and alone:
 * browsers start it when something comes, and end it soon after.
 */

/** A page that says nothing for so long is asleep, and is seen by nobody. */
const ANSWER_MS = 1000;

/**
 * Apple's browsers take a subscription away at the third message of which nothing was shown, whoever saw what (WebKit's
 * `maxSilentPushCount`): there it is shown without a sound, and taken back at once.
 */
const MUST_SHOW = ".push.apple.com";

const TEXTS = { waiting: "Waits for your answer", finished: "Is done", failed: "Failed" };

addEventListener("install", () => skipWaiting());
addEventListener("push", (event) => event.waitUntil(show(event.data.json())));
addEventListener("notificationclick", (event) => {
  event.notification.close();
  event.waitUntil(open(event.notification.data.session));
});
addEventListener("pushsubscriptionchange", (event) => event.waitUntil(renew(event)));

async function show({ id, status, title, session_id: session, at }) {
  const silent = (await pages()).some((page) => page.visible && page.session === session);
  if (silent && !(await mustShow())) return;
  // What was told twice has the same tag, and takes its own place without a sound.
  const options = { body: TEXTS[status] ?? status, tag: id, timestamp: at, silent, data: { session } };
  await registration.showNotification(title || "A conversation", options);
  if (silent) for (const one of await registration.getNotifications({ tag: id })) one.close();
}

async function mustShow() {
  const subscription = await registration.pushManager.getSubscription();
  return subscription !== null && new URL(subscription.endpoint).hostname.endsWith(MUST_SHOW);
}

/** Goes to a page that shows the conversation, or has one show it; where there is none, opens one. */
async function open(session) {
  const known = await pages();
  const page = known.find((it) => it.session === session) ?? known.find((it) => !it.inCall);
  if (!page) return clients.openWindow(`${registration.scope}#${encodeURIComponent(session)}`);
  if (page.session !== session) page.client.postMessage({ type: "gapless.open", session });
  return page.client.focus();
}

/** The browser has replaced its subscription: a page tells the server, with the key that only pages have. */
async function renew({ oldSubscription, newSubscription }) {
  const subscription = newSubscription ?? (oldSubscription && (await registration.pushManager.subscribe(oldSubscription.options)));
  const [page] = await pages();
  if (page) return page.client.postMessage({ type: "gapless.subscribed" });
  if (!subscription) return undefined;
  // Enough where a cookie says who asks; elsewhere the next page that is loaded does it.
  const headers = { "content-type": "application/json" };
  return fetch(new URL("push/subscriptions", registration.scope), { method: "PUT", headers, body: JSON.stringify(subscription) });
}

/** The chat pages that are open, last looked at first: `{ client, session, visible, inCall }`. */
async function pages() {
  const windows = await clients.matchAll({ type: "window", includeUncontrolled: true });
  const own = windows.filter(({ url }) => url.startsWith(registration.scope));
  return (await Promise.all(own.map(ask))).filter((page) => page !== null);
}

function ask(client) {
  return new Promise((resolve) => {
    const { port1, port2 } = new MessageChannel();
    port1.onmessage = ({ data }) => resolve({ ...data, client });
    setTimeout(resolve, ANSWER_MS, null);
    client.postMessage({ type: "gapless.shown" }, [port2]);
  });
}
