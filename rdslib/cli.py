"""The `rds` command."""

from __future__ import annotations

import errno
import sys

import typer

from rdslib.commands.compare import compare_command
from rdslib.commands.evaluate import evaluate_command
from rdslib.commands.explain import explain_command
from rdslib.commands.plan import plan_command
from rdslib.commands.run import help_command, report_command, run_command, status_command
from rdslib.commands.select import select_command
from rdslib.commands.text import plain
from rdslib.commands.verify import verify_command
from rdslib.errors import UserError

app = typer.Typer(
    help="Select instruction-tuning data with RDS+ and other methods, and reproduce the paper's figures.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)
app.command("run")(run_command)
app.command("help", hidden=True)(help_command)
app.command("status")(status_command)
app.command("verify")(verify_command)
app.command("report")(report_command)
app.command("select")(select_command)
app.command("plan")(plan_command)
app.command("explain")(explain_command)
app.command("compare")(compare_command)
app.command("evaluate")(evaluate_command)

# A full disk or a folder without rights, wherever it was met; other errors of the system are faults of ours.
OF_THE_USER = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EACCES, errno.EROFS)


def main() -> None:
    """Run the command; print what a user can correct as one line, with exit code 2."""
    try:
        app()
    except UserError as error:
        typer.echo(plain(f"rds: {error}"), err=True)
        sys.exit(2)
    except OSError as error:
        if error.errno not in OF_THE_USER:
            raise
        where = error.filename or "RDSLIB_HOME or the output's folder"
        text = f"rds: {where}: {error.strerror}; correct that, and run the same again to go on"
        typer.echo(plain(text), err=True)
        sys.exit(2)
    except KeyboardInterrupt:
        typer.echo("rds: stopped; run the same command again to go on", err=True)
        sys.exit(130)


if __name__ == "__main__":
    main()
