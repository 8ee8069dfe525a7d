/** A page's service worker, and messages that come to it as from a push service. */

/** The worker of a page that has one; what it would show and open is in `shown` and `opened`. */
export async function workerOf(page) {
  const context = page.context();
  const worker = context.serviceWorkers()[0] ?? (await context.waitForEvent("serviceworker"));
  await worker.evaluate(() => {
    [self.shown, self.opened, self.done] = [[], [], () => {}];
    registration.showNotification = async (title, options) => shown.push({ title, ...options });
    clients.openWindow = async (url) => opened.push(url);
    WindowClient.prototype.focus = async function () {
      opened.push(`focus ${this.id}`);
    };
    ExtendableEvent.prototype.waitUntil = (work) => work.then(() => self.done());
  });
  return worker;
}

/** Delivers a message; what the worker has shown, of all that came, once it is done with it. */
export async function deliver(page, worker, message) {
  const done = worker.evaluate(() => new Promise((resolve) => (self.done = resolve)));
  const cdp = await page.context().newCDPSession(page);
  const registered = new Promise((resolve) => cdp.on("ServiceWorker.workerRegistrationUpdated", resolve));
  await cdp.send("ServiceWorker.enable");
  const { registrationId } = (await registered).registrations.at(-1);
  await cdp.send("ServiceWorker.deliverPushMessage", { origin: new URL(page.url()).origin, registrationId, data: JSON.stringify(message) });
  await done;
  await cdp.detach();
  return worker.evaluate(() => shown);
}
