"""The command line: one command a file, imported when it is called. Errors own their exit codes."""

from __future__ import annotations

import importlib
import os
import sys
from collections.abc import Mapping
from typing import Any

import click

from porting import __version__
from porting.interruption import INTERRUPTED, interrupt, on_interrupt, requested

# name -> (module with `command`, line of help). Listed here so that `porting --help` imports no command.
COMMANDS = {
    "backends": "List the registered backends with their surfaces, operator counts and schemes.",
    "check": "Say which nodes of SOURCE have no legal form on a backend, and why.",
    "checkpoint": "Convert a checkpoint into what a runtime loads; plan, validate and compare.",
    "doctor": "Show versions, the native module, and backends that failed to load.",
    "explain": "Say what a node, value or module of the source became in a port.",
    "port": "Port SOURCE to a backend: rewrite, quantize, emit, and prove parity.",
    "reference": "Run SOURCE on CPU in float32.",
    "run": "Run a port of a Python surface with the vendor's calls.",
    "sensitivity": "Rank the quantized layers of a port by what is gained when they stay in float.",
    "simulate": "Run a port on CPU with the chip's arithmetic.",
    "verify": "Measure the parity of a port against its source.",
}


class Commands(click.Group):
    """A group whose commands are modules of a package, imported when they are called. table: name -> line of help."""

    def __init__(self, *args: Any, table: Mapping[str, str], package: str, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._table = table
        self._package = package

    def list_commands(self, ctx: click.Context) -> list[str]:
        """Sorted by name."""
        return sorted(self._table)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """The command of a module; None for no such name."""
        if cmd_name not in self._table:
            return None
        command: click.Command = importlib.import_module(f"{self._package}.{cmd_name}").command
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """The table, without importing a command."""
        with formatter.section("Commands"):
            formatter.write_dl([(name, self._table[name]) for name in self.list_commands(ctx)])

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """As click; an unknown name is answered with the nearest one."""
        name = args[0] if args else ""
        if name and name not in self._table and not name.startswith("-"):
            import difflib

            near = difflib.get_close_matches(name, self._table, n=1)
            hint = f" Did you mean {near[0]!r}?" if near else ""
            ctx.fail(f"No such command {name!r}.{hint} Known: {', '.join(sorted(self._table))}.")
        return super().resolve_command(ctx, args)


@click.group(
    cls=Commands,
    table=COMMANDS,
    package="porting.cli",
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
)
@click.version_option(__version__, prog_name="porting")
@click.option("--debug", is_flag=True, help="Show the traceback of an error.")
def cli(debug: bool) -> None:
    """Port PyTorch and ONNX models to domestic inference accelerators, with proof of parity.

    Exit codes: 0 done; 1 parity out of budget; 2 bad usage or input; 3 illegal for the backend;
    4 legality unknown; 5 a backend, toolchain or runner failed; 70 an error in porting itself;
    130 interrupted, or nobody read the output.
    """


def main(arguments: list[str] | None = None) -> None:
    """Entry point: run the command, print an error for people, exit with the error's own code."""
    arguments = list(sys.argv[1:] if arguments is None else arguments)
    debug = "--debug" in arguments
    if debug:  # Accepted anywhere on the line.
        arguments = ["--debug", *(a for a in arguments if a != "--debug")]
    code = _run(arguments, debug)
    if code == INTERRUPTED:
        # Where the interrupt met code that was run from text, Python would end by SIGINT instead of with this code.
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)
    sys.exit(code)


def _run(arguments: list[str], debug: bool) -> int:
    on_interrupt(interrupt)
    try:
        # Not cli.main(), which ends a closed pipe with 1: here that says that parity fails.
        with cli.make_context("porting", arguments) as context:
            result: Any = cli.invoke(context)
        return result if isinstance(result, int) else 0
    except click.exceptions.Exit as end:
        return end.exit_code
    except (click.exceptions.Abort, KeyboardInterrupt):
        return _interrupted()
    except click.ClickException as error:
        error.show()
        return error.exit_code
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # What is left to flush goes nowhere.
        return INTERRUPTED
    except (Exception, SystemExit) as error:
        if requested():  # A library that was importing or tracing may have made it an error of its own.
            return _interrupted()
        if debug and isinstance(error, Exception):
            raise
        return _report(error)


def _interrupted() -> int:
    click.echo("interrupted", err=True)
    return INTERRUPTED


def _report(error: BaseException) -> int:
    from porting_kernels.errors import PortingError

    if isinstance(error, SystemExit):  # No command of ours calls sys.exit: the user's own code did, and with 0 perhaps.
        error = PortingError("code of the source called sys.exit", met=f"exit code {error.code}")
    if isinstance(error, PortingError):
        click.echo(f"error: {error}", err=True)
        return error.exit_code
    click.echo(
        f"internal error: {type(error).__name__}: {error}\n  try      --debug for the traceback, and report it",
        err=True,
    )
    return 70
