"""``porting explain``: what a node, value or module of the user's model became."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from porting.cli.options import PATH

if TYPE_CHECKING:
    from porting.explanation import Explanation

_SHOWN = 12


@click.command("explain")
@click.argument("out", type=PATH)
@click.argument("node", metavar="NODE")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON document.")
def command(out: Path, node: str, as_json: bool) -> None:
    """Say what NODE became in the port in OUT, and how well it holds.

    NODE is a value, node or weight of the port, a value or node of the source, or a module path of the user's model,
    such as model.layers.1.mlp.gate: its operators, the rewrites that made them, the row of the surface, what the
    scheme did, and its parity.
    """
    from porting.explanation import explain

    found = explain(out, node)
    if as_json:
        click.echo(json.dumps(found.to_json(), indent=1, sort_keys=True, ensure_ascii=False))
        return
    _print(found)


def _print(found: Explanation) -> None:
    count = len(found.values)
    click.echo(f"{found.name}: {found.kind}, {count} value{'s' * (count != 1)} of the port")
    for value in found.values[:_SHOWN]:
        _print_value(value)
    if count > _SHOWN:
        click.echo(f"  ... and {count - _SHOWN} more, all with --json")
    for entry in found.quantized:
        group = f"groups of {entry['group']}" if entry["group"] else "one scale an output channel"
        bits = entry["activation_bits"]
        activation = f"int{bits} activations by row" if bits else "activations in float"
        weights = f"int{entry['weight_bits']} weights, {group}"
        click.echo(f"scheme   {entry['operator']} of {_module(entry)}: {weights}; {activation}")
    for entry in found.kept_in_float:
        click.echo(f"scheme   {entry['operator']} of {_module(entry)} stays in float: {entry['reason']}")
    if found.decoder_layer is not None:
        layer = found.decoder_layer
        views = ", ".join(f"{view} {layer[view]['rel_l2']:.2e}" for view in ("isolated", "forced", "accumulated"))
        click.echo(f"layer    {layer['module']}: rel L2 {views}; {layer['flips']} flips of routing by itself")
    for entry in found.untested_experts:
        click.echo(f"untested {entry['router']}: experts {', '.join(map(str, entry['experts']))}")


def _module(entry: Mapping[str, Any]) -> str:
    return str(entry["name"]).partition(" (")[0]


def _print_value(value: Mapping[str, Any]) -> None:
    shape = "" if value["shape"] is None else f"[{','.join(value['shape'])}]"
    node = f" = {value['operator']} {value['node']!r}" if value["operator"] else ""
    click.echo(f"  {value['value']}{node}  {value['dtype'] or ''}{shape}")
    if value["sources"]:
        first, *rest = value["sources"]
        more = f" and {len(rest)} more source values" if rest else ""
        click.echo(f"    {'is' if value['equal'] else 'from':<8} {first}{more}{_place(value)}")
    for rule in value["rules"]:
        contract = rule["contract"]
        said = "" if contract is None else f": {_promise(contract)}"
        click.echo(f"    rule     {rule['rule']}{said}")
    surface = value["surface"]
    if surface is not None:
        sources = f" [source: {'; '.join(surface['sources'])}]" if surface["sources"] else ""
        row = f", row {surface['row']}" if surface["row"] else ""
        click.echo(f"    surface  {surface['verdict']}{row}{sources}")
        for line in (*surface["constraints"], *surface["reasons"]):
            click.echo(f"             {line}")
    parity = [f"{view} {_error(value[view])}" for view in ("isolated", "accumulated") if value[view]]
    if parity:
        click.echo(f"    parity   {', '.join(parity)}")
    for check in value["checks"]:
        click.echo(f"    {check['verdict']:<8} {check['metric']} required {check['required']}, met {check['met']}")


def _promise(contract: Mapping[str, Any]) -> str:
    if contract["kind"] == "exact":
        return "bit-exact"
    return f"{contract['kind']} {contract['value']:g}, {contract['reason']}"


def _error(metrics: Mapping[str, Any]) -> str:
    if metrics["mismatches"] is not None:
        return f"{metrics['mismatches']} of {metrics['count']} integers differ"
    return f"rel L2 {metrics['rel_l2']:.2e}"


def _place(value: Mapping[str, Any]) -> str:
    parts = [value["module"], value["class"], f"{value['file']}:{value['line']}" if value["file"] else None]
    known = ", ".join(part for part in parts if part)
    return f", {known}" if known else ""
