"""Settings of a command that are not typed: in a TOML file, or in the environment.

Every option has one name: `--cors-origin` on the command line, `GAPLESS_CORS_ORIGIN` in the environment, `cors_origin`
in the file. What is typed counts first, then the environment, then the file; what takes `NAME=VALUE` is a setting for
each name.
"""

from __future__ import annotations

import contextlib
import difflib
import json
import re
import tomllib
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import typer
from typer.exceptions import TyperException

from gapless.cli.bounds import client_config_of, client_settings_of, config_of, limits_of
from gapless.errors import UsageError

__all__ = [
    "DEFAULT_PATH",
    "ENVIRONMENT",
    "by_name",
    "misspelt",
    "place_of",
    "read_settings",
    "told_by_place",
    "variable_of",
]

DEFAULT_PATH = "gapless.toml"
"""Read where it is in the working directory and no other file is named."""
ENVIRONMENT = "GAPLESS"
"""What the names of all variables begin with."""
NEAR = 0.8
"""How like a variable's name another is that is taken for it, misspelt."""
_OTHER_VARIABLES = tuple(
    f"{ENVIRONMENT}_{name}"
    for name in ("API_KEY", "API_KEYS", "DEBUG", "ENDPOINT_KEY", "MODEL", "MODEL_NAME", "OF_ENV_FILES", "URL")
)
_OPTION = re.compile(r"--(?P<name>[a-z][a-z-]+)")
_CHECKS: dict[str, Callable[[list[str]], object]] = {
    "limit": limits_of,
    "config": partial(config_of, settings=[]),
    "client_config": client_config_of,
    "client_setting": client_settings_of,
}
"""What refuses a wrong name or value, by setting: here, where it is known that the file says it."""


def read_settings(ctx: typer.Context, path: str | None) -> str | None:
    """Take what a settings file says for the command's options, and return the file's path, None where there is none.
    To be the callback of an eager option. Raises `UsageError`."""
    if path is None:
        if not Path(DEFAULT_PATH).is_file():
            return None
        path = DEFAULT_PATH
    try:
        found = tomllib.loads(Path(path).read_text(encoding="utf-8"))
    except OSError as error:
        raise UsageError(f"settings file {path}: {error.strerror}") from None
    except UnicodeDecodeError:
        raise UsageError(f"settings file {path}: it is not UTF-8 text") from None
    except tomllib.TOMLDecodeError as error:
        raise UsageError(f"settings file {path} is no TOML: {error}") from None
    params: dict[str | None, Any] = {param.name: param for param in ctx.command.params}
    params.pop("settings_file")
    ctx.default_map = {name: _value(ctx, path, params, name, value) for name, value in found.items()}
    return path


def by_name(ctx: typer.Context, param: typer.CallbackParam, options: list[str] | None) -> list[str] | None:
    """Return `options`, each `NAME=VALUE`, as the place that counts first has them, and the names that only places
    behind it have: a secret in the environment leaves the file its addresses. To be the callback of an option."""
    found = list(options or ())
    for behind in (param.value_from_envvar(ctx), (ctx.default_map or {}).get(param.name)):
        named = {option.partition("=")[0] for option in found}
        found += [option for option in behind or () if option.partition("=")[0] not in named]
    return found or options


def _value(ctx: typer.Context, path: str, params: dict[str | None, Any], name: str, value: Any) -> Any:
    """Return what one key says as the command line would say it. Raises `UsageError`."""
    param = params.get(name)
    if param is None:
        near = difflib.get_close_matches(name, [each for each in params if each], 1)
        meant = f"did you mean {near[0]}? " if near else ""
        raise UsageError(
            f"settings file {path}: there is no setting {name}; {meant}`{ctx.command_path} --help` lists them"
        )
    if isinstance(value, dict):
        if "=" not in (param.metavar or ""):
            raise UsageError(f"settings file {path}: {name} is no table")
        several = param.metavar.endswith(",…")
        value = [f"{key}={_said(each, several=several)}" for key, each in value.items()]
    elif param.multiple or param.nargs == -1:
        value = value if isinstance(value, list) else [value]
        if not all(isinstance(each, str) for each in value):
            raise UsageError(f"settings file {path}: {name} is a list of strings")
    elif isinstance(value, list):
        raise UsageError(f"settings file {path}: {name} is one value, not a list")
    elif isinstance(value, bool) and not param.is_flag:  # true would be the number 1
        raise UsageError(f"settings file {path}: {name} is neither true nor false: write {_kind(param)}")
    try:
        param.process_value(ctx, value)
        if name in _CHECKS:
            _CHECKS[name](value)
    except TyperException as error:
        raise UsageError(f"settings file {path}: {name}: {error.message}") from None
    except UsageError as error:
        raise UsageError(f"settings file {path}: {error.message}") from None
    return value


def _kind(param: Any) -> str:
    """Return in words what an option of one value takes."""
    return "a number" if param.type_descriptor.annotation in (int, float) else "text"


@contextlib.contextmanager
def told_by_place(ctx: typer.Context) -> Iterator[None]:
    """Name the variable, or the settings file, in a `UsageError` on an option's value that was not typed."""
    try:
        yield
    except UsageError as error:
        named = _OPTION.match(error.message)
        place = None if named is None else place_of(ctx, named["name"].replace("-", "_"))
        if named is not None and place == "ENVIRONMENT":
            raise UsageError(variable_of(named["name"]) + error.message[named.end() :]) from error.__cause__
        if named is not None and place == "DEFAULT_MAP":
            raise UsageError(f"settings file {ctx.params['settings_file']}: {error.message}") from error.__cause__
        raise


def place_of(ctx: typer.Context, name: str) -> str | None:
    """Return where an option's value is from, in typer's words, whose enum is not public."""
    source = ctx.get_parameter_source(name)
    return None if source is None else source.name


def variable_of(option: str) -> str:
    """Return the variable that says what an option does, by its name with or without dashes."""
    return f"{ENVIRONMENT}_{option.removeprefix('--').replace('-', '_').upper()}"


def misspelt(ctx: typer.Context, environment: Mapping[str, str]) -> Iterator[tuple[str, str]]:
    """Yield the variables that look like one of Gapless and are none, each with the one that it is like. An environment
    is shared: what is like none is somebody else's."""
    known = [*_OTHER_VARIABLES, *(variable_of(param.name) for param in ctx.command.params if param.name)]
    for variable in sorted(environment):
        if variable.startswith(f"{ENVIRONMENT}_") and variable not in known:
            ends = [each.removeprefix(f"{ENVIRONMENT}_") for each in known]  # what all begin with makes none alike
            if near := difflib.get_close_matches(variable.removeprefix(f"{ENVIRONMENT}_"), ends, 1, NEAR):
                yield variable, f"{ENVIRONMENT}_{near[0]}"


def _said(value: Any, *, several: bool) -> str:
    """Return a value in a table as it stands behind `NAME=`: JSON, or `several` parted by commas."""
    if several and isinstance(value, list):
        return ",".join(each if isinstance(each, str) else json.dumps(each) for each in value)
    return json.dumps(value)
