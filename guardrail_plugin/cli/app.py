"""The root command and the list of commands. Imports no model library: ``guardrail --help`` answers at once."""

from __future__ import annotations

from typing import Annotated

import typer

from guardrail_plugin._version import __version__
from guardrail_plugin.cli import reporting
from guardrail_plugin.cli.bench import register as register_bench
from guardrail_plugin.cli.calibrate import register as register_calibrate
from guardrail_plugin.cli.chat import chat
from guardrail_plugin.cli.check import check
from guardrail_plugin.cli.doctor import doctor
from guardrail_plugin.cli.dro import register as register_dro
from guardrail_plugin.cli.evaluate import register as register_evaluate
from guardrail_plugin.cli.export import export
from guardrail_plugin.cli.loadtest import register as register_loadtest
from guardrail_plugin.cli.mix import mix
from guardrail_plugin.cli.models import models
from guardrail_plugin.cli.serve import register as register_serve
from guardrail_plugin.cli.train import train

app = typer.Typer(
    name="guardrail",
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode=None,  # plain help: the same in a pipe, a log and a narrow terminal
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)


def _show_version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"guardrail-plugin {__version__}")
        raise typer.Exit


@app.callback()
def root(
    *,
    debug: Annotated[bool, typer.Option("--debug", help="Show the traceback of an error.")] = False,
    version: Annotated[
        bool, typer.Option("--version", callback=_show_version, is_eager=True, help="Show the version and exit.")
    ] = False,
) -> None:
    """A small language model stands guard in front of any LangChain chain."""
    reporting.debug.set(debug)


app.command()(check)
app.command()(chat)
app.command()(train)
app.command()(mix)
app.command()(export)
app.command()(doctor)
app.command()(models)
register_evaluate(app)
register_bench(app)
register_calibrate(app)
register_dro(app)
register_serve(app)
register_loadtest(app)
