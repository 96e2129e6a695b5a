"""The commands, as typer has them."""

from __future__ import annotations

from typing import Annotated

import typer

from rdslib import __version__
from rdslib.commands.compare import compare_command
from rdslib.commands.evaluate import evaluate_command
from rdslib.commands.explain import explain_command
from rdslib.commands.export import export_command
from rdslib.commands.plan import plan_command
from rdslib.commands.run import help_command, report_command, run_command
from rdslib.commands.select import select_command
from rdslib.commands.status import clean_command, status_command
from rdslib.commands.verify import verify_command

app = typer.Typer(no_args_is_help=True, pretty_exceptions_enable=False)


def _show_version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"rds {__version__}")
        raise typer.Exit()


@app.callback()
def rds(
    version: Annotated[
        bool, typer.Option("--version", callback=_show_version, is_eager=True, help="Show the version.")
    ] = False,
) -> None:
    """Select instruction-tuning data with RDS+ and other methods, and reproduce the paper's figures."""


app.command("run")(run_command)
app.command("help", hidden=True)(help_command)
app.command("status")(status_command)
app.command("clean")(clean_command)
app.command("verify")(verify_command)
app.command("report")(report_command)
app.command("select")(select_command)
app.command("plan")(plan_command)
app.command("explain")(explain_command)
app.command("compare")(compare_command)
app.command("evaluate")(evaluate_command)
app.command("export")(export_command)
