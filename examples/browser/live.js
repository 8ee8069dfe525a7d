/** A live run over the browser's own WebSocket. It comes back by itself, and no message is lost or comes twice. */
export function talk(hear, server = "/agents") {
  const run = crypto.randomUUID();
  const unheard = new Map(); // what was said and is not in the run's journal yet
  let socket;
  let last = "0";
  let failures = 0;

  function connect() {
    const url = new URL(`${server}/live?run_id=${run}&after=${last}`, location.href);
    socket = new WebSocket(url.href.replace(/^http/, "ws"));
    socket.onopen = () => unheard.forEach((said) => socket.send(said)); // what has an id counts once
    socket.onmessage = ({ data }) => {
      const { id, event, data: said, error } = JSON.parse(data);
      [last, failures] = [id ?? last, 0];
      if (error) {
        unheard.delete(error.id); // it would be refused again
        hear({ type: "error", ...error });
      }
      if (said?.role === "user") unheard.delete(said.messageId.split("-said-")[1]);
      if (said || event === "end") hear(said ?? { type: "end" });
    };
    socket.onclose = ({ code }) => {
      if (code === 1000) return; // the run has ended
      if (++failures > 8) return hear({ type: "error", code: "connection_lost" });
      setTimeout(connect, Math.min(250 * 2 ** failures, 10_000));
    };
  }

  function send(id, said) {
    unheard.set(id, JSON.stringify(said));
    if (socket.readyState === WebSocket.OPEN) socket.send(unheard.get(id));
  }

  connect();
  return {
    say: (content, id = crypto.randomUUID()) => send(id, { content, id }),
    /** 16-bit samples at 16 kHz; what is spoken during a cut is gone, as on a telephone. */
    speak: (sound) => socket.readyState === WebSocket.OPEN && socket.send(sound),
    close: () => send("close", { close: true }),
  };
}
