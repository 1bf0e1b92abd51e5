import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from porting_kernels.errors import PortingError
from porting_kernels.moe_dispatch import moe_dispatch


@st.composite
def routings(draw):
    """(ids (N, k), experts): distinct experts a token, some of them hit by nobody."""
    experts = draw(st.integers(1, 7))
    k = draw(st.integers(1, experts))
    order = st.permutations(range(experts)).map(lambda p: p[:k])
    ids = draw(st.lists(order, max_size=6))
    return torch.tensor(ids, dtype=torch.int64).reshape(len(ids), k), experts


@given(routings())
def test_rows_are_sorted_by_expert_then_entry(case):
    ids, experts = case
    x = torch.arange(ids.shape[0] * 3, dtype=torch.float32).reshape(-1, 3)
    rows, offsets, index = moe_dispatch(x, ids, experts=experts)
    flat = ids.flatten().tolist()
    expected = sorted(range(len(flat)), key=lambda entry: (flat[entry], entry))
    assert index.tolist() == expected
    assert rows.tolist() == [x[entry // ids.shape[1]].tolist() for entry in expected]
    assert offsets.tolist() == [sum(e <= expert for e in flat) for expert in range(experts)]
    assert index.dtype == offsets.dtype == torch.int64


def test_all_tokens_to_one_expert_keep_their_order():
    rows, offsets, index = moe_dispatch(torch.eye(4), torch.full((4, 1), 2), experts=5)
    assert torch.equal(rows, torch.eye(4))
    assert offsets.tolist() == [0, 0, 4, 4, 4]
    assert index.tolist() == [0, 1, 2, 3]


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.int8])
def test_rows_keep_the_dtype(dtype):
    assert moe_dispatch(torch.ones(2, 3, dtype=dtype), torch.tensor([[1], [0]]), experts=2)[0].dtype == dtype


@pytest.mark.parametrize("bad", [-1, 3])
def test_an_id_that_names_no_expert_is_refused(bad):
    with pytest.raises(PortingError, match="names no expert"):
        moe_dispatch(torch.zeros(1, 2), torch.tensor([[0, bad]]), experts=3)
