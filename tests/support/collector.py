"""What only Python's collector of cycles can free."""

from __future__ import annotations

import contextlib
import gc
from collections import Counter
from collections.abc import Iterator


@contextlib.contextmanager
def left_for_the_collector() -> Iterator[Counter[str]]:
    """What the block leaves that only the collector can free. What was there before is not looked at: another test's
    may be let go of meanwhile."""
    found: Counter[str] = Counter()
    gc.collect()
    gc.freeze()
    gc.disable()
    gc.set_debug(gc.DEBUG_SAVEALL)
    try:
        yield found
        gc.collect()
        found.update(f"{type(one).__module__}.{type(one).__qualname__}" for one in gc.garbage)
    finally:
        gc.set_debug(0)
        gc.garbage.clear()
        gc.enable()
        gc.collect()
