"""``porting verify``: parity of a port on disk, for people and for CI."""

from __future__ import annotations

from pathlib import Path

import click

from porting.cli import options
from porting.cli.options import PATH


@click.command("verify")
@click.argument("out", type=PATH)
@click.option("--source", metavar="SOURCE", help="The original, if it is not where port.json says.")
@click.option("--inputs", type=PATH, metavar="DATA", help="Samples to compare on.  [default: the port's own evidence]")
@click.option("--runner", metavar="CMD", help="Hold a device to the port too: CMD gets --inputs X.npz --outputs Y.npz.")
@click.option("--budget", type=PATH, metavar="FILE", help="Limits that go before the default ones (JSON).")
@options.memory
@options.threads
@click.option("--junit", type=PATH, metavar="FILE", help="Write a JUnit report.")
@click.option("--html", type=PATH, metavar="FILE", help="Write the report page.")
@click.option("--baseline", type=PATH, metavar="FILE", help="An earlier result; being worse than it is a failure.")
@click.option("--update-baseline", is_flag=True, help="Write the result to --baseline.")
@click.option("--strict", is_flag=True, help="Fail too when parity is ambiguous or was not measured.")
def command(
    out: Path,
    source: str | None,
    inputs: Path | None,
    runner: str | None,
    budget: Path | None,
    memory: int,
    threads: int,
    junit: Path | None,
    html: Path | None,
    baseline: Path | None,
    update_baseline: bool,
    strict: bool,
) -> int:
    """Measure the parity of the port in OUT against its source, from the files alone.

    OUT may also be a folder that ``porting checkpoint convert`` has written, or one in its formats: what a runtime
    would serve from it is measured against --source.

    Exit code 1 when a limit or the baseline is broken; with --strict also when parity is ambiguous or not measured.
    """
    from porting import manifest
    from porting.cli.summary import print_parity
    from porting.converted import is_converted, verify_converted
    from porting.errors import UsageError
    from porting.parity import baseline as baselines
    from porting.parity import junit as junits
    from porting.parity import report
    from porting.verification import verify

    if update_baseline and baseline is None:
        raise UsageError("--update-baseline writes to a file", fix="--baseline FILE")
    for path in (junit, html, baseline if update_baseline else None):
        options.require_writable(path)
    before = baselines.load(baseline) if baseline is not None and not update_baseline else None
    record = None
    if is_converted(out):
        if runner is not None:
            raise UsageError("--runner runs a port", required="OUT of `porting port`", met=out)
        parity, record = verify_converted(
            out, source=source, inputs=inputs, budget=budget, memory=memory, threads=threads
        )
    else:
        parity = verify(out, source=source, inputs=inputs, budget=budget, memory=memory, threads=threads, runner=runner)
    document = parity.to_json()
    print_parity(parity, out)
    failed = parity.verdict == "fail" or (strict and parity.verdict != "pass")
    checks = []
    if update_baseline and baseline is not None:
        baselines.store(document, baseline)
        click.echo(f"  baseline: {baseline}")
    elif before is not None:
        checks = baselines.compare(document, before)
        regressions = [check for check in checks if check.verdict == "fail"]
        for check in regressions:
            click.echo(f"  worse than the baseline: {check.sentence()}")
        failed = failed or bool(regressions)
    if junit is not None:
        document["checks"] += [check.to_json() for check in checks]
        options.write(junit, junits.render(document, strict=strict))
        click.echo(f"  junit: {junit}")
    if html is not None:
        options.write(html, report.render(parity.to_json(), record or manifest.without_report(manifest.read(out))))
        click.echo(f"  report: {html}")
    return 1 if failed else 0
