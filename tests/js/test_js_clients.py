"""The vendors' own JavaScript clients against a real server, through a network that cuts every answer."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from gapless.runner import Runner
from gapless.server import create_app
from support import node
from support.proxy import cutting
from support.rich import ANSWER, ARGUMENTS, CLOSING, REASONING, RESULT, TEXT, rich
from support.serving import serving
