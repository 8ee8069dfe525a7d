/** A live run over the browser's own WebSocket. It comes back by itself; nothing that is said or heard is lost. */
export function talk(hear, server = "/agents") {
  const run = crypto.randomUUID();
  const unheard = new Map(); // what was said and is not in the run's journal yet
  let socket;
  let last = "0";

  function connect() {
    const url = new URL(`${server}/live?run_id=${run}&after=${last}`, location.href);
    socket = new WebSocket(url.href.replace(/^http/, "ws"));
    socket.onopen = () => unheard.forEach((said) => socket.send(said)); // what has an id counts once
    socket.onmessage = ({ data }) => {
      const { id, event, data: said } = JSON.parse(data);
      last = id ?? last;
      if (said?.role === "user") unheard.delete(said.messageId.split("-said-")[1]);
      if (said || event === "end") hear(said ?? { type: "end" });
    };
    socket.onclose = ({ code }) => code !== 1000 && setTimeout(connect, 500); // 1000: the run has ended
  }

  function send(id, said) {
    unheard.set(id, JSON.stringify(said));
    if (socket.readyState === WebSocket.OPEN) socket.send(unheard.get(id));
  }

  connect();
  return {
    say: (content, id = crypto.randomUUID()) => send(id, { content, id }),
    speak: (sound) => socket.readyState === WebSocket.OPEN && socket.send(sound), // 16-bit samples at 16 kHz
    close: () => send("close", { close: true }),
  };
}
