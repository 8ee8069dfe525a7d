"""What `gapless serve` is told of limits, of how runs go, and of what clients may choose."""

from __future__ import annotations

import difflib
import re
from typing import Any, TypeVar

import msgspec

from gapless.config import CHOICES, KINDS, ClientConfig, ConnectionLimits, Limits, RunConfig, StreamingMode
from gapless.errors import UsageError
from gapless.given import shown
from gapless.notify import NotifyConfig, Webhook
from gapless.settings import CLIENT_SETTINGS

__all__ = ["client_config_of", "client_settings_of", "config_of", "connection_limits_of", "limits_of", "notify_of"]

_FIELD = re.compile(r" - at `\$\.(?P<name>\w+)")
"""Where msgspec says that what is wrong is."""
_NUMBER = re.compile(r"[0-9]{1,18}")
_KNOWN = {**CHOICES, "streaming_mode": tuple(mode.value for mode in StreamingMode), "fallback": ("true", "false")}
NEAR = 0.9
"""How like a usual setting a name is that is taken for one, misspelt: others are those of some model."""

_LimitsT = TypeVar("_LimitsT", Limits, ConnectionLimits)
_T = TypeVar("_T")


def limits_of(options: list[str]) -> Limits:
    """Return the limits that `--limit` options set, the others as they are. Raises `UsageError`."""
    return _limits_of(options, Limits)


def connection_limits_of(options: list[str]) -> ConnectionLimits:
    """Return the limits of connections that `--limit` options set, likewise."""
    return _limits_of(options, ConnectionLimits)


def _limits_of(options: list[str], kind: type[_LimitsT]) -> _LimitsT:
    known = (*Limits.__struct_fields__, *ConnectionLimits.__struct_fields__)
    found: dict[str, int] = {}
    for option in options:
        name, number = _named("limit", option, known)
        if not _NUMBER.fullmatch(number) or int(number) == 0:
            raise UsageError(f"--limit {option[:100]!r}: write {name}=NUMBER, a whole number from 1 on")
        if name in kind.__struct_fields__:
            found[name] = int(number)
    return kind(**found)


def notify_of(options: list[str]) -> NotifyConfig:
    """Return who is told of runs, by `--notify` options: `url`, perhaps several times, with `text` for all of them, and
    the fields of `NotifyConfig`. Values are JSON, or text as it is. Raises `UsageError`, `ExtraMissing`."""
    fields = ("url", "text", *(name for name in NotifyConfig.__struct_fields__ if name != "webhooks"))
    urls, found = list[Any](), dict[str, Any]()
    for option in options:
        name = option.partition("=")[0]
        if name not in fields:  # what it was given may be a secret
            raise UsageError(f"--notify {name[:100]!r}: there is no such notify; one of {', '.join(fields)}")
        name, value = _value("notify", option)
        if name == "url":
            urls += value if isinstance(value, list) else [value]
        else:
            found[name] = value
    text = found.pop("text", False)
    try:
        config = NotifyConfig(webhooks=tuple(Webhook(url=url, text=text) for url in urls), **found)
    except ValueError as error:
        where = " in GAPLESS_NOTIFY='secret=whsec_…'" if str(error).startswith("notify.secret") else ""
        raise UsageError(f"--notify: {error}{where}") from None
    if config.push_key:
        from gapless.runs.push import check_push

        check_push(config)
    return config


def config_of(options: list[str], settings: list[str]) -> RunConfig:
    """Return how runs go that are started without saying: by `--config` options, and `--setting` options for the
    model's settings. Values are JSON, or text as it is. Raises `UsageError`."""
    fields = tuple(name for name in RunConfig.__struct_fields__ if name != "model_settings")
    found: dict[str, Any] = dict(_value("config", option, fields) for option in options)
    found["model_settings"] = model = dict(_value("setting", option) for option in settings)
    for name in model:
        _check_spelt("setting", name)
    return _converted("config", found, RunConfig)


def client_config_of(options: list[str]) -> ClientConfig:
    """Return what clients may choose of their runs' config: by `--client-config` options, the rest as it is. Values are
    parted by commas. Raises `UsageError`."""
    found: dict[str, Any] = {}
    for option in options:
        name, values = _named("client-config", option, ClientConfig.__struct_fields__)
        found[name] = [_json(value) for value in values.split(",") if value]
    return _converted("client-config", found, ClientConfig)


def client_settings_of(options: list[str]) -> frozenset[str]:
    """Return what a request may set of a model's settings: the names in `--client-setting` options, of which `usual`
    stands for the list that holds without any, and `none` for nothing. Raises `UsageError`."""
    if not options:
        return CLIENT_SETTINGS
    found: set[str] = set()
    for name in options:
        if not name.isidentifier():
            raise UsageError(f"--client-setting {name!r}: write the name of one setting, usual, or none")
        _check_spelt("client-setting", name, "usual")
        found |= CLIENT_SETTINGS if name == "usual" else set() if name == "none" else {name}
    return frozenset(found)


def _check_spelt(option: str, name: str, *more: str) -> None:
    near = difflib.get_close_matches(name, [*CLIENT_SETTINGS, "model", *more], 1, NEAR)
    if near and near[0] != name:
        raise UsageError(f"--{option} {name}: there is no such setting; did you mean {near[0]}?")


def _named(option: str, text: str, known: tuple[str, ...] | None = None) -> tuple[str, str]:
    name, _, value = text.partition("=")
    if known is not None and name not in known:
        raise UsageError(f"--{option} {text!r}: there is no such {option}; one of {', '.join(known)}")
    return name, value


def _value(option: str, text: str, known: tuple[str, ...] | None = None) -> tuple[str, Any]:
    name, value = _named(option, text, known)
    if not name or not value:
        raise UsageError(f"--{option} {text!r}: write {name or 'NAME'}=VALUE")
    return name, _json(value)


def _json(text: str) -> Any:
    try:
        return msgspec.json.decode(text)
    except msgspec.DecodeError:
        return text


def _converted(option: str, found: dict[str, Any], kind: type[_T]) -> _T:
    try:
        return msgspec.convert(found, kind)
    except msgspec.ValidationError as error:
        field = _FIELD.search(str(error))
        if field is not None:
            raise UsageError(f"--{option} {_refused(field['name'], found[field['name']])}") from None
        raise UsageError(f"--{option} {str(error).removesuffix(' - at `$`')}") from None


def _refused(name: str, value: Any) -> str:
    """Say of a field's value what it should be."""
    if name in _KNOWN:
        values = value if isinstance(value, list) else [value]
        wrong = next((one for one in values if one not in _KNOWN[name]), value)
        return f"{name}: {shown(wrong)}; one of {', '.join(_KNOWN[name])}"
    return f"{name}: {KINDS[name][1] if name in KINDS else 'another value'}, not {shown(value)}"
