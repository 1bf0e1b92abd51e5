"""The console command and ``python -m porting``: an interrupt has its answer before the first large import."""

from __future__ import annotations

from porting.interruption import leave, on_interrupt


def main() -> None:
    """Run the command line and exit with its code."""
    on_interrupt(leave)
    from porting import cli

    cli.main()


if __name__ == "__main__":
    main()
