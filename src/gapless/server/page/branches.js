/**
 * A conversation whose messages were asked again, or edited, is a tree: a turn that was asked after the same run as an
 * earlier one is another version of it, and nothing is lost of what it replaced. The server goes on from the newest.
 */

/**
 * Finds what each turn is asked after. `turns` are `{ runId, messageId, after }`, oldest first: `after` is the run that a
 * turn says it is asked after, "" for none; without it, a message that comes again by its id has its old place, and any
 * other goes on from the newest. Returns a map from run ids to their turn's parent, "" for the beginning.
 */
export function parentsOf(turns) {
  const parents = new Map();
  const known = new Map(turns.map((turn) => [turn.runId, turn]));
  let line = []; // turns by which the conversation has come to where it is
  for (const turn of turns) {
    const { runId, messageId, after } = turn;
    const again = messageId ? line.findIndex((one) => one.messageId === messageId) : -1;
    let parent = (again === -1 ? line.at(-1) : line[again - 1])?.runId ?? "";
    if (after === "" || parents.has(after)) parent = after;
    parents.set(runId, parent);
    if ((line.at(-1)?.runId ?? "") !== parent) line = pathTo(parents, parent).map((id) => known.get(id));
    line.push(turn);
  }
  return parents;
}

/** The runs from the beginning to this one. */
export function pathTo(parents, runId) {
  const path = [];
  for (let at = runId; at; at = parents.get(at)) path.unshift(at);
  return path;
}

/**
 * The turns to show, as `{ runId, at, versions }`: `versions` are the runs that were asked in the same place, `at` which of
 * them is shown. `chosen` are the runs whose versions a reader wants; elsewhere the newest line is shown.
 */
export function lineOf(parents, chosen) {
  const children = new Map();
  for (const [runId, parent] of parents) children.set(parent, [...(children.get(parent) ?? []), runId]);
  const newest = new Set(pathTo(parents, [...parents.keys()].at(-1) ?? ""));
  const line = [];
  for (let versions = children.get(""); versions; versions = children.get(line.at(-1).runId)) {
    const wanted = versions.find((id) => chosen.has(id)) ?? versions.find((id) => newest.has(id)) ?? versions.at(-1);
    line.push({ runId: wanted, at: versions.indexOf(wanted), versions });
  }
  return line;
}
