"""The commands, as typer has them; each is loaded when it is called, since what most need takes a second."""

from __future__ import annotations

from collections import Counter
from importlib import import_module
from typing import Annotated, Any

import typer
from typer.core import TyperCommand, TyperGroup, TyperOption

from rdslib import __version__
from rdslib.errors import UserError

# Of each command NAME the module that has the function NAME_command, and what the list of them says; nothing
# of one that is not listed.
COMMANDS = {
    "run": ("run", "Compute what a profile's figures need, and draw them."),
    "compute": ("compute", "Go on with the runs of a long study, for so many minutes."),
    "status": ("status", "Show what of a profile's study exists, and what is missing."),
    "clean": ("status", "Remove artifacts and downloads that no profile needs."),
    "verify": ("verify", "Say whether figures still agree with the artifacts behind them."),
    "report": ("run", "Write a profile's figures and provenance as one HTML page."),
    "select": ("select", "Choose the K best samples of a pool."),
    "plan": ("plan", "Say what a selection or a study will cost, before it is spent."),
    "explain": ("explain", "Say why a sample was picked, or why not."),
    "push": ("push", "Write a selection as a data set for the hub."),
    "compare": ("compare", "Compare two selections: their overlap, sources and scores."),
    "evaluate": ("evaluate", "Score models on a profile's tasks."),
    "export": ("export", "Write the model of one run as a plain model folder."),
    "help": ("run", ""),
    "help-compute": ("compute", ""),
}
# Plain text: panels of rich squeeze the options' names, and every word of the help, into half of 80 columns.
OPTIONS: Any = {"pretty_exceptions_enable": False, "rich_markup_mode": None}
# Options that name data, of which a folder may hold several files.
OF_DATA = ("pool", "queries")


class Once(TyperCommand):
    """A command that refuses an option of one value that is given twice, where the parser takes the last."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Parse the arguments; raises UserError for such an option."""
        _, _, order = self.make_parser(ctx).parse_args(list(args))
        for option, count in Counter(order).items():
            if count > 1 and isinstance(option, TyperOption) and not (option.multiple or option.is_eager):
                many = "put the files into one folder, and give that" if option.name in OF_DATA else ""
                name = max(option.opts, key=len)
                raise UserError(f"{name}: is given {count} times; {many or 'give it once'}")
        return super().parse_args(ctx, args)


class Commands(TyperGroup):
    """The commands, of which there is no more than the list until one is called."""

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        self.commands = {
            name: TyperCommand(name, help=about, hidden=not about) for name, (_, about) in COMMANDS.items()
        }

    def resolve_command(self, ctx: Any, args: list[str]) -> Any:
        """Load the command that is called."""
        name, _, others = super().resolve_command(ctx, args)
        return name, name and load(name), others


def load(name: str) -> Any:
    """Load a command with its options."""
    module = import_module(f"rdslib.commands.{COMMANDS[name][0]}")
    alone = typer.Typer(add_completion=False, **OPTIONS)
    alone.command(name, cls=Once)(getattr(module, f"{name.replace('-', '_')}_command"))
    return typer.main.get_command(alone)


app = typer.Typer(cls=Commands, no_args_is_help=True, **OPTIONS)


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
