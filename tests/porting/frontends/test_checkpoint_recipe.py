"""Recipes record what torch functions would do; a view made of one has the values that torch computes."""

from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from porting.errors import ShapeError, UnsupportedOperatorError
from porting.frontends.checkpoint_recipe import Recipe, Stored, to_view
from porting.weights.store import WeightStore

TENSORS = {f"t{i}": torch.arange(24, dtype=torch.float32).reshape(4, 6) + 100 * i for i in range(4)}

CASES = {
    "stack": lambda t: torch.stack(t, dim=0),
    "cat_rows": lambda t: torch.cat(t, dim=0),
    "cat_columns": lambda t: torch.cat(t, dim=-1),
    "chunk": lambda t: torch.chunk(t[0], 2, dim=0)[1].contiguous(),
    "chunk_uneven": lambda t: torch.chunk(t[1], 4, dim=1)[2],
    "split": lambda t: torch.split(t[2], [1, 3], dim=0)[1],
    "transpose": lambda t: torch.transpose(t[3], dim0=0, dim1=1).contiguous(),
    "experts": lambda t: torch.cat([torch.stack(t[:2]), torch.stack(t[2:])], dim=1),
    "experts_transposed": lambda t: torch.transpose(torch.stack(t), 1, 2),
    "one_expert": lambda t: torch.chunk(torch.stack(t), 4, dim=0)[3].squeeze(0),
}


@pytest.fixture
def store(tmp_path: Path) -> WeightStore:
    save_file(TENSORS, tmp_path / "model.safetensors")
    return WeightStore(tmp_path)


def leaves() -> list[Recipe]:
    return [Stored((4, 6), name) for name in TENSORS]


@pytest.mark.parametrize("name", CASES)
def test_view_of_recipe_equals_torch(name: str, store: WeightStore) -> None:
    recipe = CASES[name](leaves())
    expected = CASES[name](list(TENSORS.values()))
    assert recipe.shape == tuple(expected.shape)
    assert torch.equal(to_view(recipe, store).tensor(), expected)


def test_sources_are_named_in_order() -> None:
    assert list(torch.cat(leaves()).sources()) == ["t0", "t1", "t2", "t3"]


def test_unknown_function_is_refused_by_name() -> None:
    with pytest.raises(UnsupportedOperatorError, match="roll"):
        torch.roll(leaves()[0], 1)


def test_stored_tensors_of_two_shapes_do_not_stack() -> None:
    with pytest.raises(ShapeError) as caught:
        torch.stack([*leaves(), Stored((4, 5), "narrow")])
    assert caught.value.where == "narrow"


def test_swapping_other_axes_than_the_last_is_refused() -> None:
    with pytest.raises(UnsupportedOperatorError, match="0 and 1"):
        torch.transpose(torch.stack(leaves()), 0, 1)
