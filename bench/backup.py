"""Backs a store up from a process of its own, as docs/deploy.md says: `python -m bench.backup STORE FILE`.

It waits for a line on stdin first, so that starting it is not part of what is measured.
"""

from __future__ import annotations

import sqlite3
import sys
import time
from urllib.parse import unquote

LOOK_S = 0.01


def main() -> None:
    store, file = sys.argv[1:]
    sys.stdin.readline()
    if store.startswith("sqlite:"):
        with sqlite3.connect(unquote(store.partition("://")[2][1:])) as db:
            db.execute("VACUUM INTO ?", (file,))
    else:
        import redis

        server = redis.Redis.from_url(store)
        server.bgsave()
        while server.info("persistence")["rdb_bgsave_in_progress"]:  # type: ignore[index]  # its stubs allow awaitables
            time.sleep(LOOK_S)


if __name__ == "__main__":
    main()
