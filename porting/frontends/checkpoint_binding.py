"""Which stored tensors make each parameter of a transformers module: the loader's own rules, run on recipes.

transformers' registry of conversions (``conversion_mapping.py``) says how names and layouts of checkpoints become those
of modules: renamings, and converters that stack, join, split or transpose. They are run here as its loader runs them
(``core_model_loading.convert_and_load_state_dict_in_model``), with recipes in place of tensors.
"""

from __future__ import annotations

import copy
import dataclasses
from collections.abc import Iterable, Mapping
from typing import Any

from porting.errors import InvalidModelError, PortingError
from porting.frontends.checkpoint_recipe import Recipe, Stored


@dataclasses.dataclass(frozen=True)
class Binding:
    """recipes: by name of parameter or persistent buffer, tied names included. unused: stored tensors in none."""

    recipes: Mapping[str, Recipe]
    unused: tuple[str, ...]


@dataclasses.dataclass
class _Collected:
    """What one converter has gathered for one target: recipes by source pattern."""

    converter: Any
    recipes: dict[str, list[Recipe]]


def bind(module: Any, shapes: Mapping[str, tuple[int, ...]]) -> Binding:
    """Bind every parameter and persistent buffer of a module on the meta device.

    shapes: of the stored tensors, scales left out. Raises InvalidModelError listing the parameters that the checkpoint
    does not fill, or of another shape, and for a conversion that cannot be done in place.
    """
    recipes = _recipes(module, shapes)
    wanted = {name: tuple(tensor.shape) for name, tensor in module.state_dict(keep_vars=True).items()}
    _complete_ties(module, recipes)
    missing = [name for name in wanted if name not in recipes]
    if missing:
        raise InvalidModelError(
            f"the checkpoint does not fill {len(missing)} of {len(wanted)} parameters",
            required=_some(missing),
            met=f"{len(shapes)} stored tensors, among them {_some(list(shapes))}",
            fix="download the missing shards; a checkpoint of another architecture or version cannot be used",
        )
    unlike = [name for name, shape in wanted.items() if recipes[name].shape != shape]
    if unlike:
        name = unlike[0]
        raise InvalidModelError(
            f"{len(unlike)} parameters have another shape in the checkpoint than config.json asks for",
            required=f"{name} {list(wanted[name])}",
            met=f"{list(recipes[name].shape)} from {_some(list(recipes[name].sources()))}",
            where=_some(unlike),
        )
    bound = {name: recipes[name] for name in wanted}
    used = {source for recipe in bound.values() for source in recipe.sources()}
    return Binding(bound, tuple(name for name in shapes if name not in used))


def both_tied_stored(module: Any, shapes: Mapping[str, tuple[int, ...]]) -> bool:
    """Whether the checkpoint stores a parameter and one that config.json ties to it: then nothing is tied."""
    groups = _ties(module)
    if not groups:
        return False
    recipes = _recipes(module, shapes)
    return any(sum(name in recipes for name in group) > 1 for group in groups)


def outside(names: Iterable[str], inside: Iterable[str]) -> list[str]:
    """Names grouped by the shortest module path under which nothing of ``inside`` lies, each once, sorted."""
    known = {name[:at] for name in inside for at in _dots(name)}
    found = {next((name[:at] for at in _dots(name) if name[:at] not in known), name) for name in names}
    return sorted(found, key=_natural)


def _recipes(module: Any, shapes: Mapping[str, tuple[int, ...]]) -> dict[str, Recipe]:
    from transformers.conversion_mapping import get_model_conversion_mapping
    from transformers.core_model_loading import WeightConverter, WeightRenaming, dot_natural_key, rename_source_key

    mapping = get_model_conversion_mapping(module)
    renamings = [entry for entry in mapping if isinstance(entry, WeightRenaming)]
    converters = [entry for entry in mapping if isinstance(entry, WeightConverter)]
    by_pattern = {pattern: converter for converter in converters for pattern in converter.source_patterns}
    wanted = module.state_dict(keep_vars=True)
    found: dict[str, Recipe] = {}
    collected: dict[str, _Collected] = {}
    prefix = module.base_model_prefix
    for name in sorted(shapes, key=dot_natural_key):
        target, pattern = rename_source_key(name, renamings, converters, prefix, wanted)
        if target not in wanted and name in wanted:
            target, pattern = rename_source_key(name, [], [], prefix, wanted)
        if target not in wanted:
            continue
        if pattern is None:
            found[target] = Stored(shapes[name], name)
        else:
            entry = collected.setdefault(target, _Collected(by_pattern[pattern], {}))
            entry.recipes.setdefault(pattern, []).append(Stored(shapes[name], name))
    for target, entry in collected.items():
        found.update(_converted(module, target, entry))
    return found


def _converted(module: Any, target: str, entry: _Collected) -> dict[str, Recipe]:
    """A converter run on what was collected for it, by the name of each parameter that it makes."""
    converter = copy.copy(entry.converter)
    converter.collected_tensors = dict(entry.recipes)
    try:
        made = converter.convert(target, model=module, config=module.config)
    except PortingError as error:
        counts = ", ".join(f"{len(recipes)} x {pattern}" for pattern, recipes in entry.recipes.items())
        raise InvalidModelError(
            f"cannot make {target} of what is stored",
            required=error.required,
            met=f"{error.message}: {error.met}" if error.met is not None else error.message,
            where=f"{error.where}, among {counts}" if error.where is not None else counts,
        ) from error
    return {name: made[name][0] if isinstance(made[name], list) else made[name] for name in made}


def _complete_ties(module: Any, recipes: dict[str, Recipe]) -> None:
    for group in _ties(module):
        stored = next((name for name in group if name in recipes), None)
        if stored is not None:
            for name in group:
                recipes.setdefault(name, recipes[stored])


def _ties(module: Any) -> list[list[str]]:
    """Names of parameters that are one tensor."""
    groups: dict[int, list[str]] = {}
    for name, parameter in module.named_parameters(remove_duplicate=False):
        groups.setdefault(id(parameter), []).append(name)
    return [names for names in groups.values() if len(names) > 1]


def _natural(path: str) -> list[tuple[bool, int, str]]:
    return [(part.isdigit(), int(part) if part.isdigit() else 0, part) for part in path.split(".")]


def _dots(name: str) -> list[int]:
    return [at for at, letter in enumerate(name) if letter == "."]


def _some(names: list[str]) -> str:
    return ", ".join(names[:5]) + (f" and {len(names) - 5} more" if len(names) > 5 else "")
