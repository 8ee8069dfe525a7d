"""Runs several examples in one process, for the frameworks that take seconds to import: names and arguments in, what
each printed out, as JSON.

python run_all.py basic,collect --framework adk
"""

from __future__ import annotations

import contextlib
import io
import json
import runpy
import sys
from pathlib import Path

EXAMPLES = Path(__file__).parents[2] / "examples"

if __name__ == "__main__":
    names, sys.argv[1:] = sys.argv[1].split(","), sys.argv[2:]
    sys.path.insert(0, str(EXAMPLES))
    printed = {}
    for name in names:
        sys.argv[0] = str(EXAMPLES / f"{name}.py")
        with contextlib.redirect_stdout(io.StringIO()) as out:
            runpy.run_path(sys.argv[0], run_name="__main__")
        printed[name] = out.getvalue()
    print(json.dumps(printed))
