"""Language models: how far apart two distributions over the next token are, and what that costs in perplexity.

kl_mean, kl_max    Kullback-Leibler divergence of the result from the reference, sum p log(p / q) in nats, a position
kl_p99             the same, the value that 99 % of the positions keep
top1_agreement     share of positions where both hold the same token for the likeliest
perplexity         exp of the mean negative log-likelihood of the tokens that follow; of the reference too

A position where either side is not finite has no distribution: it is counted in ``undefined`` and left out.
"""

from __future__ import annotations

import dataclasses
import math

import torch

from porting.parity.metrics import significant

IDS, LOGITS = "input_ids", "logits"
"""The names that an imported language model gives to its input and output."""
_ENOUGH = 1000
"""Predicted tokens that a ratio of perplexities needs. A divergence of 2e-3 nats moves the loss of a token by about
sqrt(2 * 2e-3) = 0.06 either way, so that the mean over 1000 tokens is good to 0.2 %."""
_CHUNK = 1 << 22
"""Logits that are looked at in float64 at a time."""


@dataclasses.dataclass(frozen=True)
class LanguageMetrics:
    """The table above. positions: compared; predicted: those with a token behind them, which perplexity counts."""

    positions: int
    undefined: int
    predicted: int
    kl_mean: float
    kl_max: float
    kl_p99: float
    top1_agreement: float
    perplexity_reference: float
    perplexity: float

    @property
    def perplexity_ratio(self) -> float | None:
        """Perplexity of the result over that of the reference; None for a text that is too short to say."""
        return self.perplexity / self.perplexity_reference if self.predicted >= _ENOUGH else None

    def to_json(self) -> dict[str, float | int]:
        """Plain numbers, floats rounded to nine significant digits."""
        return {k: significant(v) if isinstance(v, float) else v for k, v in dataclasses.asdict(self).items()}


@dataclasses.dataclass
class LanguageSums:
    """The sums behind `LanguageMetrics`: merged in a fixed order, they have the same bits for any number of threads."""

    positions: int = 0
    undefined: int = 0
    predicted: int = 0
    kl: float = 0.0
    kl_max: float = 0.0
    divergences: list[torch.Tensor] = dataclasses.field(default_factory=list)
    agreed: int = 0
    loss_reference: float = 0.0
    loss: float = 0.0

    def update(self, reference: torch.Tensor, result: torch.Tensor, ids: torch.Tensor) -> None:
        """Add one sample. reference, result: logits [batch, sequence, vocabulary]; ids: int64 [batch, sequence]."""
        rows = max(1, _CHUNK // reference.shape[-1])
        for r, s, tokens in zip(reference, result, ids, strict=True):
            for start in range(0, len(tokens), rows):
                stop = min(start + rows, len(tokens))
                self._add(r[start:stop], s[start:stop], tokens[start + 1 : stop + 1])

    def _add(self, reference: torch.Tensor, result: torch.Tensor, following: torch.Tensor) -> None:
        defined = (reference.isfinite() & result.isfinite()).all(dim=-1)
        if not bool(defined.all()):
            self.undefined += int((~defined).sum())
            following = following[defined[: len(following)]]
            # The last position of a row has no token behind it; sorting it out keeps positions and tokens in step.
            reference, result = reference[defined], result[defined]
            if not len(reference):
                return
        p, q = (torch.log_softmax(logits.double(), dim=-1) for logits in (reference, result))
        kl = (p.exp() * (p - q)).sum(dim=-1).clamp_(min=0.0)
        self.positions += len(kl)
        self.kl += float(kl.sum())
        self.kl_max = max(self.kl_max, float(kl.max()))
        self.divergences.append(kl)
        self.agreed += int((reference.argmax(dim=-1) == result.argmax(dim=-1)).sum())
        if len(following):
            at = torch.arange(len(following))
            self.predicted += len(following)
            self.loss_reference -= float(p[at, following].sum())
            self.loss -= float(q[at, following].sum())

    def merge(self, other: LanguageSums) -> None:
        """Add another sample."""
        for field in dataclasses.fields(self):
            mine, theirs = getattr(self, field.name), getattr(other, field.name)
            setattr(self, field.name, max(mine, theirs) if field.name == "kl_max" else mine + theirs)

    def metrics(self) -> LanguageMetrics | None:
        """The finished numbers; None when nothing was compared."""
        if not self.positions:
            return None  # nothing that is a distribution
        return LanguageMetrics(
            positions=self.positions,
            undefined=self.undefined,
            predicted=self.predicted,
            kl_mean=self.kl / self.positions,
            kl_max=self.kl_max,
            kl_p99=_quantile(torch.cat(self.divergences), 0.99),
            top1_agreement=self.agreed / self.positions,
            perplexity_reference=_perplexity(self.loss_reference, self.predicted),
            perplexity=_perplexity(self.loss, self.predicted),
        )


def _quantile(values: torch.Tensor, share: float) -> float:
    """The smallest value that at least this share of all values does not exceed."""
    return float(values.sort().values[max(0, math.ceil(share * len(values)) - 1)])


def _perplexity(loss: float, tokens: int) -> float:
    return math.exp(min(loss / tokens, 700.0)) if tokens else 1.0
