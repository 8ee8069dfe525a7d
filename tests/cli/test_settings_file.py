"""A server's settings, wherever they are said: typed, in the environment, in a file."""

from __future__ import annotations

import socket
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner, Result

from gapless import Webhook
from gapless.cli import app
from gapless.cli import serve as command
from gapless.cli.serve import Settings


@pytest.fixture
def served(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> list[Settings]:
    """What `gapless serve` would serve with, in an empty folder."""
    found: list[Settings] = []

    def run(settings: Settings, listener: socket.socket, *rest: Any) -> None:
        listener.close()
        found.append(settings)

    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(command, "_prepare", lambda settings: {})
    monkeypatch.setattr(command, "_run", run)
    monkeypatch.setattr("gapless.cli.listen.exit_at_signals", lambda: None)
    return found


def serve(*arguments: str, **environment: str) -> Result:
    return CliRunner().invoke(app, ["serve", "--port", "0", *arguments], env={"NO_COLOR": "1", **environment})


EVERYTHING = """
agents = ["support=my_agents:support", "sales=sales.py:agent"]
drain = 30
retention = 30.5
cors_origin = ["https://app.example.com"]
path_prefix = "/agents"
cancel_on_hang_up = "ag-ui"
shared_state = true
log_level = "warning"
client_setting = ["usual", "logprobs"]

[limit]
runs_active_max = 500

[config]
timeout = 120
on_busy = "queue"

[setting]
max_tokens = 1000
stop = ["END", "5"]

[client_config]
on_busy = ["reject", "queue"]
"""


def test_a_file_says_everything(served: list[Settings]):
    Path("gapless.toml").write_text(EVERYTHING)
    assert "as in   gapless.toml" in serve().output
    (settings,) = served
    assert settings.agents == ("support=my_agents:support", "sales=sales.py:agent")
    assert (settings.app["drain_s"], settings.runner["retention_s"], settings.log_level) == (
        30,
        30.5 * 86400,
        "warning",
    )
    assert settings.app["cors_origins"] == ["https://app.example.com"]
    assert settings.app["path_prefix"] == "/agents"
    assert settings.app["cancel_on_hang_up"] == ["ag-ui"]
    assert settings.app["shared_state"]
    assert settings.runner["limits"].runs_active_max == 500
    assert (settings.runner["config"].timeout, settings.runner["config"].on_busy) == (120, "queue")
    assert settings.runner["config"].model_settings == {"max_tokens": 1000, "stop": ["END", "5"]}
    assert settings.runner["client_config"].on_busy == {"reject", "queue"}
    assert {"temperature", "logprobs"} <= settings.runner["client_settings"]


def test_what_is_typed_counts_before_the_environment_and_that_before_the_file(served: list[Settings]):
    Path("gapless.toml").write_text(
        'drain = 1\nlease = 1\nretention = 1\nagents = "file"\ncors_origin = "https://file"'
    )
    serve("--drain", "3", GAPLESS_DRAIN="2", GAPLESS_LEASE="2", GAPLESS_AGENTS="one two")
    (settings,) = served
    assert (settings.app["drain_s"], settings.runner["lease_s"], settings.runner["retention_s"]) == (3, 2, 86400)
    assert settings.agents == ("one", "two")
    assert settings.app["cors_origins"] == ["https://file"]


def test_each_name_of_a_table_is_a_setting_of_its_own(served: list[Settings]):
    """A secret is for the environment, and addresses may be in the file: neither takes the other's place."""
    Path("gapless.toml").write_text(
        """
[notify]
url = ["https://file.example.com/", "https://file.example.org/"]
text = true
timeout_s = 5
[limit]
runs_active_max = 1
runs_active_per_user_max = 1
"""
    )
    serve("--limit", "runs_active_max=3", GAPLESS_NOTIFY=f"secret={SECRET}", GAPLESS_LIMIT="runs_active_max=2")
    serve("--notify", "url=https://typed.example.com/", GAPLESS_NOTIFY=f"secret={SECRET} timeout_s=7")
    first, second = (settings.runner["notify"] for settings in served)
    assert [webhook.url for webhook in first.webhooks] == ["https://file.example.com/", "https://file.example.org/"]
    assert (first.secret, first.timeout_s) == (SECRET, 5)
    assert second.webhooks == (Webhook(url="https://typed.example.com/", text=True),)
    assert (second.secret, second.timeout_s) == (SECRET, 7)
    limits = served[0].runner["limits"]
    assert (limits.runs_active_max, limits.runs_active_per_user_max) == (3, 1)


def test_several_values_of_a_variable_are_parted_by_spaces(served: list[Settings]):
    serve(GAPLESS_CORS_ORIGIN="https://a https://b", GAPLESS_LIMIT="runs_active_max=5", GAPLESS_SHARED_STATE="true")
    (settings,) = served
    assert settings.app["cors_origins"] == ["https://a", "https://b"]
    assert settings.runner["limits"].runs_active_max == 5
    assert settings.app["shared_state"]


SECRET = "whsec_" + "c2VjcmV0" * 5


def test_who_is_told_of_runs_is_said_in_any_of_these_ways(served: list[Settings]):
    Path("gapless.toml").write_text(f"""
[notify]
url = ["https://one.example.com/", "https://two.example.com/"]
text = true
secret = "{SECRET}"
timeout_s = 5
""")
    assert SECRET not in serve().output
    serve(GAPLESS_NOTIFY=f"url=http://localhost/ http=true private=true clients=false secret={SECRET},{SECRET}")
    Path("gapless.toml").unlink()
    serve("--notify", "url=https://one.example.com/", "--notify", f"secret={SECRET}")
    of_file, of_environment, typed = (settings.runner["notify"] for settings in served)
    assert [webhook.url for webhook in of_file.webhooks] == ["https://one.example.com/", "https://two.example.com/"]
    assert all(webhook.text for webhook in of_file.webhooks)
    assert (of_file.secret, of_file.timeout_s, of_file.clients) == (SECRET, 5, True)
    assert (of_environment.http, of_environment.private, of_environment.clients) == (True, True, False)
    assert of_environment.webhooks[0].url == "http://localhost/"
    assert typed.webhooks == (Webhook(url="https://one.example.com/"),)


@pytest.mark.parametrize(
    ("option", "said"),
    [
        ("url=https://hooks.example.com/", "nothing is signed"),
        ("url=http://hooks.example.com/", "the operator's to allow"),
        ("secret=whsec_short", "random bytes"),
        (f"secert={SECRET}", "there is no such notify"),
        ("timeout_s=0", "timeout_s"),
    ],
)
def test_who_cannot_be_told_is_said_without_the_secret(served: list[Settings], option: str, said: str):
    result = serve("--notify", option)
    assert result.exit_code == 2
    assert said.replace("nothing is signed", "whsec_") in " ".join(result.output.split())
    assert SECRET not in result.output
    assert not served


def test_another_file_may_be_named_and_none_is_needed(served: list[Settings]):
    assert "as in" not in serve("--retention", "inf").output
    Path("gapless.toml").write_text("nonsense = 1")
    Path("other.toml").write_text("drain = 5")
    assert "as in   other.toml" in serve("--settings-file", "other.toml").output
    serve(GAPLESS_SETTINGS_FILE="other.toml")
    assert [settings.app["drain_s"] for settings in served] == [10, 5, 5]
    assert served[0].runner["retention_s"] is None


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("prot = 9000", "there is no setting prot; did you mean port? `gapless serve --help` lists them"),
        ("zzz = 1", "there is no setting zzz; `gapless serve --help` lists them"),
        ("settings_file = 'x'", "there is no setting settings_file"),
        ("drain = 'soon'", "drain: Input should be a valid number"),
        ("drain = -1", "drain: Input should be greater than or equal to 0"),
        ("drain = [1]", "drain is one value, not a list"),
        ("retention = nan", "retention: Input should be greater than or equal to 0.001"),
        ("workers = true", "workers is neither true nor false: write a number"),
        ("cors_origin = 'x'", "--cors-origin 'x': browsers send an origin as https://x"),
        ("cors_origin = [1]", "cors_origin is a list of strings"),
        ("[store]\nurl = 'x'", "store is no table"),
        ("drain 5", "is no TOML: "),
        ("[limit]\nruns = 5", "--limit 'runs=5': there is no such limit; one of body_bytes_max"),
        ("[config]\ntimeot = 5", "--config 'timeot=5': there is no such config; one of streaming_mode"),
        ("[config]\ntimeout = 'soon'", "--config timeout: "),
        ("[client_config]\non_busy = ['never']", "--client-config on_busy: "),
        ("client_setting = ['temprature']", "did you mean temperature?"),
    ],
)
def test_what_is_wrong_in_a_file_is_said_by_its_name(served: list[Settings], text: str, said: str):
    Path("gapless.toml").write_text(text)
    result = serve()
    assert result.exit_code == 2
    assert result.output.startswith("Error: settings file gapless.toml")
    assert said in " ".join(result.output.split())
    assert not served


def test_where_the_secret_of_a_files_webhooks_is_said(served: list[Settings]):
    Path("gapless.toml").write_text("[notify]\nurl = ['https://one.example.com/']")
    assert "give one, whsec_… in GAPLESS_NOTIFY='secret=whsec_…'" in " ".join(serve().output.split())


def test_a_file_that_is_not_there(served: list[Settings]):
    result = serve("--settings-file", "none.toml")
    assert (result.exit_code, served) == (2, [])
    assert "settings file none.toml: No such file or directory" in result.output


@pytest.mark.parametrize(
    ("variable", "value", "said"),
    [
        ("GAPLESS_DRAIN", "x", "Invalid value for GAPLESS_DRAIN: "),
        ("GAPLESS_LIMIT", "nosuch=1", "GAPLESS_LIMIT 'nosuch=1': there is no such limit"),
        ("GAPLESS_LOG_LEVEL", "loud", "GAPLESS_LOG_LEVEL 'loud': it is one of"),
        ("GAPLESS_CORS_ORIGIN", "x", "GAPLESS_CORS_ORIGIN 'x': browsers"),
        ("GAPLESS_OPERATOR", "ghost", "GAPLESS_OPERATOR ghost: there are no keys"),
    ],
)
def test_what_is_wrong_in_a_variable_is_said_by_its_name(served: list[Settings], variable: str, value: str, said: str):
    result = serve(**{variable: value})
    assert (result.exit_code, served) == (2, [])
    assert result.output.startswith(f"Error: {said}")


@pytest.mark.parametrize(
    "arguments",
    [
        ("--path-prefix", "agents"),
        ("--login-url", "notaurl"),
        ("--logout-url", "notaurl"),
        ("--cancel-on-hang-up", "nosuch"),
        ("--cors-origin", "app.example.com"),
        ("--allowed-host", "http://x/"),
        ("--setting", "temprature=1"),
    ],
)
def test_what_cannot_be_is_said_by_the_options_name_and_before_anything_is_served(
    served: list[Settings], arguments: tuple[str, str]
):
    result = serve(*arguments)
    assert (result.exit_code, served) == (2, [])
    assert result.output.startswith(f"Error: {arguments[0]}")
    assert result.output.count("\n") == 1


def test_an_operator_is_somebody_with_a_key(served: list[Settings]):
    keys = {"GAPLESS_API_KEYS": "alice=0123456789abcdef"}
    refused = serve("--operator", "ghost", **keys)
    assert refused.output == "Error: --operator ghost: GAPLESS_API_KEYS has no key of that name, but alice\n"
    assert serve("--operator", "alice", **keys).exit_code == 0
    assert serve("--operator", "anonymous").exit_code == 0, "everybody, where there are no keys"


def test_a_misspelt_variable_is_told_once_without_its_value(served: list[Settings], caplog: pytest.LogCaptureFixture):
    assert serve(GAPLESS_RETENTON="1secret", GAPLESS_FOO="2", GAPLESS_MODEL_NAME="x", GAPLESS_DRAIN="3").exit_code == 0
    assert caplog.messages == ["the variable GAPLESS_RETENTON says nothing here: did you mean GAPLESS_RETENTION?"]


def test_a_unix_sockets_address_is_a_path_and_what_is_under_it_is_said_apart(served: list[Settings], tmp_path: Path):
    lines = serve("--uds", "x.sock", "--path-prefix", "/agents").output.splitlines()
    assert lines[:2] == [f"socket  unix:{tmp_path / 'x.sock'}", "under   /agents/"]
