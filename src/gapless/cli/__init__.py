"""The command line. One module per command; what it needs is imported when it runs, so that `--help` is quick."""

from __future__ import annotations

import sys
from typing import Annotated, Any

import typer
from typer.core import TyperGroup
from typer.exceptions import TyperException

from gapless import __version__
from gapless.cli import answer, chat, client, demo, doctor, listing, model, notices, push_keys, runs, serve, timeline
from gapless.cli.logs import log_to_stderr
from gapless.cli.settings_file import ENVIRONMENT, place_of, variable_of
from gapless.cli.terminal import raised_on_import, say_error
from gapless.errors import AgentNotFound, GaplessError, InputInvalid, NotAuthenticated, UsageError

__all__ = ["app", "main"]

EXIT_FAILURE, EXIT_USAGE = 1, 2

_HINTS: dict[type[GaplessError], str] = {
    NotAuthenticated: "; set GAPLESS_API_KEY to one that the server knows",
}
"""What to do here about errors that say what to do elsewhere."""


class _Commands(TyperGroup):
    """Turns errors into one line that says what is wrong and what to do."""

    def main(self, *args: Any, **options: Any) -> Any:
        standalone = options.get("standalone_mode", True)
        try:
            code = super().main(*args, **{**options, "standalone_mode": False})
        except typer.Abort:
            code = EXIT_FAILURE
        except TyperException as error:  # what was typed; typer would draw a box
            context = getattr(error, "ctx", None)
            command = context.command_path if context is not None else "gapless"
            message = error.format_message().removesuffix(".")
            param = getattr(error, "param", None)
            if context is not None and param is not None and place_of(context, param.name) == "ENVIRONMENT":
                message = message.replace(f"'--{param.name.replace('_', '-')}'", variable_of(param.name))
            if message:  # none where help was shown instead
                say_error(f"{message}; `{command} --help` shows what it takes")
            code = error.exit_code
        if standalone:
            sys.exit(code)
        return code

    def invoke(self, ctx: typer.Context) -> Any:  # type: ignore[override]  # typer hands its own context down
        debug = ctx.params.get("debug", False)
        try:
            return super().invoke(ctx)
        except GaplessError as error:
            if debug:
                raise
            hint = (
                "; `gapless --debug …` shows the traceback" if raised_on_import(error) else _HINTS.get(type(error), "")
            )
            say_error(error.message + hint)
            usage = isinstance(error, UsageError | AgentNotFound | InputInvalid)
            raise typer.Exit(EXIT_USAGE if usage else EXIT_FAILURE) from None
        except (typer.Exit, typer.Abort, TyperException):
            raise
        except Exception as error:
            if debug or isinstance(error, BrokenPipeError):  # who reads the output has left: typer ends it quietly
                raise
            if isinstance(error, OSError) and error.filename is not None:
                say_error(f"{error.filename}: {error.strerror}; check the path and its permissions")
                raise typer.Exit(EXIT_FAILURE) from None
            say_error(f"unexpected {type(error).__name__}: {error}; `gapless --debug …` shows where")
            raise typer.Exit(EXIT_FAILURE) from None


app = typer.Typer(
    cls=_Commands,
    name="gapless",
    no_args_is_help=True,
    rich_markup_mode="rich",
    pretty_exceptions_enable=False,
    add_completion=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)


def _show_version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"gapless {__version__}")
        raise typer.Exit


@app.callback()
def _options(
    version: Annotated[
        bool, typer.Option("--version", callback=_show_version, is_eager=True, help="Print the version.")
    ] = False,
    debug: Annotated[
        bool,
        typer.Option("--debug", envvar="GAPLESS_DEBUG", help="Show tracebacks and logs, not one line per error."),
    ] = False,
) -> None:
    """Stream the responses of AI agents without a gap.

    Runs any agent, keeps every event of a run in a journal before it is shown,
    and serves that journal to any client from any position: a cut connection
    loses nothing and repeats nothing.

    AGENT is module:attribute, file.py:attribute, a .gguf file, a URL, or nothing:
    then the small embedded model, which needs no key and no network.

    [bold]Examples[/bold]
    gapless chat                          talk to the embedded model
    gapless serve my_agents.py:support    the chat page and the HTTP routes
    gapless demo                          see a connection cut and healed
    """
    if debug:
        log_to_stderr("debug")


app.command("chat")(chat.chat)
app.command("serve", context_settings={"auto_envvar_prefix": ENVIRONMENT})(serve.serve)
app.command("runs")(listing.list_runs)
app.command("run")(timeline.show_run)
app.command("follow")(runs.follow)
app.command("cancel")(runs.cancel)
app.command("answer")(answer.answer)
app.command("notices")(notices.notices)
app.command("push-keys")(push_keys.push_keys)
app.command("demo")(demo.demo)
app.add_typer(model.app, name="model")
app.add_typer(client.app, name="client")
app.command("doctor")(doctor.doctor)


def main() -> None:
    """Run the command `gapless`: its entry point."""
    for stream in (sys.stdout, sys.stderr):
        reconfigure = getattr(stream, "reconfigure", None)
        if reconfigure is not None:
            reconfigure(errors="replace")  # a terminal that cannot show a character gets a question mark
    app(prog_name="gapless")
