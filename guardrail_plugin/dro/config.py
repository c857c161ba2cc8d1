"""Everything that decides an anchor, a training run, a measurement and a half-aligned model."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError, ValidationInfo, field_validator

from guardrail_plugin.core.errors import ConfigError
from guardrail_plugin.core.settings import explained, read_toml

_Share = Annotated[float, Field(ge=0, lt=1)]
_Positive = Annotated[float, Field(gt=0)]
_Count = Annotated[int, Field(ge=1)]


class Settings(BaseModel):
    """Frozen settings; an unknown key or a value out of range is a ``ConfigError`` that names it."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    def __init__(self, **settings: Any) -> None:
        try:
            super().__init__(**settings)
        except ValidationError as error:
            raise ConfigError(explained(error, lambda _: type(self).model_fields)) from None


class Sampling(Settings):
    """How responses are drawn.

    Attributes:
        samples: k, responses per query.
        max_new_tokens: longest response.
        temperature, top_p, top_k: 0 for ``temperature`` is greedy, 0 for ``top_k`` is no limit.
        rows: responses decoded at once.
        seed: every response has a generator of its own, seeded by this, its query and its number.
    """

    samples: _Count = 20
    max_new_tokens: _Count = 200
    temperature: Annotated[float, Field(ge=0)] = 1.0
    top_p: Annotated[float, Field(gt=0, le=1)] = 0.9
    top_k: Annotated[int, Field(ge=0)] = 50
    rows: _Count = 40
    seed: int = 42


class AnchorConfig(Settings):
    """How the anchor is fitted.

    Attributes:
        dims: m, the principal components kept.
        layer: hidden states to read; -1 is the last layer.
        folds, learning_rate, patience, max_epochs: the two linear heads: AdamW on all rows, one head per fold, stopped
            after ``patience`` epochs without a better held-out loss; the folds' weights are averaged.
        min_refusal_spread: least share of refusals, and of compliances, among all samples; below it the refusal head
            has nothing to learn.
        min_harm_accuracy: least cross-validated accuracy of the harmfulness head; 0.5 is a coin.
        sampling: how responses are drawn for the empirical refusal rate. A refusal shows in its first words, so
            these responses can be short.
        batch_size: rows per forward pass.
        seed: of the folds.
    """

    dims: _Count = 4
    layer: int = -1
    folds: Annotated[int, Field(ge=2)] = 10
    learning_rate: _Positive = 1e-4
    patience: _Count = 3
    max_epochs: _Count = 10_000
    min_refusal_spread: _Share = 0.02
    min_harm_accuracy: _Share = 0.6
    sampling: Sampling = Sampling(max_new_tokens=64)
    batch_size: _Count = 16
    seed: int = 42


class Config(Settings):
    """How a soft prompt is trained: ``L = refusal · L_r + beta · L_h + gamma · L_U``.

    Attributes:
        refusal, beta, gamma: weights of the three terms; 0 removes one (the paper's ablations).
        learning_rate, weight_decay, clip_norm: AdamW, and the gradient norm's limit.
        batch_size: queries per step; the last batch of an epoch may be smaller.
        accumulation: the batch is run in so many parts, one after the other: less memory, same gradient.
        epochs: passes over the training queries. 200 queries in batches of 50: 160 steps in 40 epochs.
        validation_fraction: share of the queries held out for early stopping; 0: none.
        patience: epochs without a better validation loss before training stops; the best prompt is kept.
        checkpoint_every: steps between checkpoints, where a checkpoint file is given.
        share_prefix: run template head and soft prompt once per step instead of once per query. Same result.
        seed: of order and split.
    """

    refusal: Annotated[float, Field(ge=0)] = 1.0
    beta: Annotated[float, Field(ge=0)] = 1e-2
    gamma: Annotated[float, Field(ge=0)] = 1e-3
    learning_rate: _Positive = 1e-3
    weight_decay: Annotated[float, Field(ge=0)] = 0.01
    clip_norm: _Positive = 1.0
    batch_size: _Count = 50
    accumulation: _Count = 1
    epochs: _Count = 40
    validation_fraction: _Share = 0.0
    patience: _Count = 5
    checkpoint_every: _Count = 20
    share_prefix: bool = True
    seed: int = 42

    @classmethod
    def from_toml(cls, path: Path) -> Config:
        """Read a file of settings.

        Raises:
            ConfigError: unreadable, not TOML, an unknown key or a value out of range.
        """
        return cls(**read_toml(path, what="settings"))


class EvaluationConfig(Settings):
    """The paper's protocol.

    Attributes:
        drawn, kept: responses per query, and how many of the longest are judged: no more than are drawn.
        harmful_tokens, harmless_tokens: longest response to either kind of query.
        min_lines: a response with fewer lines that are not blank does not comply, whatever it says.
        temperature, top_p, top_k, rows, seed: as in ``Sampling``.
        batch_size: reference answers per forward pass.
    """

    drawn: _Count = 25
    kept: _Count = 20
    harmful_tokens: _Count = 300
    harmless_tokens: _Count = 200
    min_lines: Annotated[int, Field(ge=0)] = 3
    temperature: Annotated[float, Field(ge=0)] = 1.0
    top_p: Annotated[float, Field(gt=0, le=1)] = 0.9
    top_k: Annotated[int, Field(ge=0)] = 50
    rows: _Count = 50
    batch_size: _Count = 8
    seed: int = 42

    @field_validator("kept")
    @classmethod
    def _drawn_before_kept(cls, kept: int, others: ValidationInfo) -> int:
        if kept > others.data.get("drawn", kept):
            raise ValueError(f"{kept} are more than the {others.data['drawn']} drawn")
        return kept

    def sampling(self, *, harmful: bool) -> Sampling:
        """Return how responses to one kind of query are drawn."""
        return Sampling(
            samples=self.drawn,
            max_new_tokens=self.harmful_tokens if harmful else self.harmless_tokens,
            temperature=self.temperature,
            top_p=self.top_p,
            top_k=self.top_k,
            rows=self.rows,
            seed=self.seed,
        )


class AlignConfig(Settings):
    """How a half-aligned adapter is made.

    Attributes:
        harmful, harmless, everyday, answered, frames, bare_harmful: what is taught; see ``lessons``.
        held_out: harmful, and as many harmless, topics that the scale is found on.
        answer_tokens: longest answer that is learned from. Whether to refuse is decided in the first words; with
            longer answers it is a small part of the loss.
        rank, alpha: of the adapter, on all projections.
        learning_rate, batch_size, epochs: AdamW, warmed up over a tenth of the steps, then down to nothing.
        refusal_share: of held-out harmful requests without a system message, which the adapter is scaled to.
        tries: bisection steps towards it.
    """

    harmful: _Count = 850
    harmless: _Count = 700
    everyday: Annotated[int, Field(ge=0)] = 400
    answered: Annotated[int, Field(ge=0)] = 120
    frames: _Count = 2
    bare_harmful: Annotated[float, Field(ge=0, le=1)] = 0.25
    held_out: _Count = 40
    answer_tokens: _Count = 16
    rank: _Count = 4
    alpha: _Count = 8
    learning_rate: _Positive = 2e-3
    batch_size: _Count = 16
    epochs: _Count = 1
    refusal_share: Annotated[float, Field(gt=0, lt=1)] = 0.45
    tries: _Count = 5
    seed: int = 0
