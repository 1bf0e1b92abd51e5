"""Divergence, agreement and perplexity of language models, against values computed by hand."""

from __future__ import annotations

import math

import pytest
import torch

from porting.parity.language import LanguageSums


def logits(*rows: list[float]) -> torch.Tensor:
    """Probabilities -> logits [1, sequence, vocabulary], shifted by a constant that softmax does not see."""
    return torch.tensor(rows).log()[None] + 3


REFERENCE = logits([0.5, 0.25, 0.25], [0.1, 0.8, 0.1])
RESULT = logits([0.25, 0.5, 0.25], [0.1, 0.8, 0.1])
IDS = torch.tensor([[2, 0]])


def test_two_distributions_by_hand() -> None:
    sums = LanguageSums()
    sums.update(REFERENCE, RESULT, IDS)
    m = sums.metrics()
    assert m is not None
    kl = 0.5 * math.log(2) + 0.25 * math.log(0.5)
    assert (m.positions, m.predicted, m.top1_agreement) == (2, 1, 0.5)
    assert (m.kl_mean, m.kl_max) == pytest.approx((kl / 2, kl), rel=1e-6)
    assert (m.perplexity_reference, m.perplexity) == pytest.approx((2, 4), rel=1e-6), "1 / p of token 0"


def test_the_same_logits_do_not_diverge() -> None:
    sums = LanguageSums()
    sums.update(REFERENCE, REFERENCE, IDS)
    m = sums.metrics()
    assert m is not None
    assert (m.kl_mean, m.top1_agreement, m.perplexity) == (0.0, 1.0, m.perplexity_reference)


def test_perplexities_of_a_short_text_are_not_held_against_each_other() -> None:
    generator = torch.Generator().manual_seed(1)
    for tokens, known in ((1000, False), (1001, True)):
        r = torch.randn(1, tokens, 5, generator=generator)
        sums = LanguageSums()
        sums.update(r, r * 1.1, torch.randint(0, 5, (1, tokens), generator=generator))
        m = sums.metrics()
        assert m is not None
        assert m.perplexity_ratio == (m.perplexity / m.perplexity_reference if known else None)


def test_the_tail_is_what_99_of_100_positions_keep() -> None:
    """One position of 200 diverges by far, two by less: the third largest is the 198th of 200."""
    reference = torch.zeros(1, 200, 3)
    result = reference.clone()
    result[0, :, 0] = 0.01
    result[0, 7, 0], result[0, 50, 0], result[0, 90, 0] = 5.0, 1.0, 0.5
    sums = LanguageSums()
    sums.update(reference, result, torch.zeros(1, 200, dtype=torch.int64))
    m = sums.metrics()
    assert m is not None
    tail = sorted(torch.cat(sums.divergences).tolist(), reverse=True)
    assert m.kl_max == tail[0]
    assert m.kl_p99 == tail[2] < tail[1]
    assert tail[3] < 1e-4


def test_sums_in_pieces_equal_sums_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    generator = torch.Generator().manual_seed(5)
    r, s = torch.randn(2, 7, 11, generator=generator), torch.randn(2, 7, 11, generator=generator)
    ids = torch.randint(0, 11, (2, 7), generator=generator)
    whole, merged = LanguageSums(), LanguageSums()
    whole.update(r, s, ids)
    monkeypatch.setattr("porting.parity.language._CHUNK", 22)
    for row in range(2):
        part = LanguageSums()
        part.update(r[row : row + 1], s[row : row + 1], ids[row : row + 1])
        merged.merge(part)
    for name, value in vars(whole).items():
        met = getattr(merged, name)
        if name == "divergences":
            met, value = torch.cat(met).tolist(), torch.cat(value).tolist()
        assert met == pytest.approx(value, rel=1e-12), name
    loss = torch.nn.functional.cross_entropy(r[:, :-1].reshape(-1, 11).double(), ids[:, 1:].reshape(-1))
    assert whole.metrics().perplexity_reference == pytest.approx(float(loss.exp()), rel=1e-9)


@pytest.mark.parametrize("lost", [0, 1])
def test_positions_that_are_not_finite_are_counted_and_left_out(lost: int) -> None:
    broken = RESULT.clone()
    broken[0, lost, 1] = float("nan")
    sums, rest = LanguageSums(), LanguageSums()
    sums.update(REFERENCE, broken, IDS)
    rest._add(REFERENCE[0, 1 - lost : 2 - lost], RESULT[0, 1 - lost : 2 - lost], IDS[0, 1:][: 1 if lost else 0])
    assert sums.undefined == 1
    assert {**vars(sums), "undefined": 0} == vars(rest)


def test_logits_without_one_finite_position_give_no_numbers() -> None:
    sums = LanguageSums()
    sums.update(REFERENCE, RESULT * float("nan"), IDS)
    assert (sums.undefined, sums.metrics()) == (2, None)


def test_nothing_compared_gives_no_numbers() -> None:
    assert LanguageSums().metrics() is None
