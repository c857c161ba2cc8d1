"""Everything that decides a training run, in one frozen object that is saved into the artefact."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, StrictBool, StrictInt, StrictStr, ValidationError

from guardrail_plugin.core.errors import ConfigError
from guardrail_plugin.core.settings import explained, read_toml
from guardrail_plugin.core.verdict import Rail
from guardrail_plugin.models.locate import EMBEDDED_MODEL


class _Strict(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class Columns(_Strict):
    """Which columns of a hub set hold what.

    Attributes:
        text: the query.
        response: the answer that is judged (output rail).
        label: of the query, or of the response on the output rail.
        harmful, harmless: its values; rows with any other are left out.
        category: what kind of harm: a name, several, or names with flags.
        hazards: category name to hazard code; the first that is mapped counts.
    """

    text: str
    label: str
    harmful: tuple[StrictBool | StrictInt | StrictStr, ...]
    harmless: tuple[StrictBool | StrictInt | StrictStr, ...]
    response: str | None = None
    category: str | None = None
    hazards: dict[str, str] = Field(default_factory=dict)


class Source(_Strict):
    """One JSONL file of the mix, or one set on the hub.

    Attributes:
        path: relative to a data folder given on the command line, ``corpus:NAME`` for text shipped with the library, or
            ``hub:OWNER/NAME`` for a set that the ``datasets`` package loads.
        rail: the task that its rows train.
        rows: most rows drawn per epoch (a fresh draw each epoch); 0 = all.
        repeat: how often each drawn row appears in an epoch.
        licence: as its publisher states it; copied into the model card.
        exclude_categories: rows whose category starts with one of these are left out.
        max_chars: rows longer than this are left out (they cost more than they teach).
        drop_overlaps: leave out rows that overlap with an evaluation text, instead of failing the run.
        config, split, revision, columns: of a hub set.
        gated: what a user has to do before the hub hands it out.
    """

    path: str
    rail: Rail = "input"
    rows: Annotated[int, Field(ge=0)] = 0
    repeat: Annotated[int, Field(ge=1)] = 1
    licence: str = "unstated"
    exclude_categories: tuple[str, ...] = ()
    max_chars: Annotated[int, Field(gt=0)] = 1600
    drop_overlaps: bool = False
    config: str | None = None
    split: str = "train"
    revision: str | None = None
    gated: str = ""
    columns: Columns | None = None


class Compose(_Strict):
    """Frames filled with topics, drawn anew each epoch. Counts are rows per frame and epoch.

    ``refusals`` is how many safeguard responses an epoch shows to the output rail, as harmless answers to harmful
    queries.
    ``documents`` is how many documents with and without a planted request an epoch shows, made from the clean rows of
    the mix's tool-output sources.
    ``reframe`` names sources of the mix whose "How can I ...?" questions are also used as topics.
    """

    harmful_per_frame: Annotated[int, Field(ge=0)] = 20
    harmless_per_frame: Annotated[int, Field(ge=0)] = 20
    neutralised_per_frame: Annotated[int, Field(ge=0)] = 24
    answers_per_opening: Annotated[int, Field(ge=0)] = 0
    refusals: Annotated[int, Field(ge=0)] = 0
    documents: Annotated[int, Field(ge=0)] = 0
    tool_call_share: Annotated[float, Field(ge=0, le=1)] = 0.05
    padded_share: Annotated[float, Field(ge=0, le=1)] = 0.03
    obfuscated_share: Annotated[float, Field(ge=0, le=1)] = 0.04
    lowercase_share: Annotated[float, Field(ge=0, le=1)] = 0.10
    reframe: tuple[str, ...] = ()


class EvaluationFile(_Strict):
    """An evaluation file, or its rows whose category starts with one of ``categories``: others may be for training."""

    path: str
    categories: tuple[str, ...] = ()


class TrainConfig(_Strict):
    """A training run. ``loss = detection + lambda_response * response``.

    Attributes:
        base: hub id or folder of the base model.
        base_revision: commit, tag or branch of its hub repository; ``guardian.json`` keeps the commit in any case.
        task: both heads of the multi-task loss, or one alone (for the ablation).
        lora_rank, lora_alpha, lora_dropout: adapters on every linear layer (LoRA, arXiv 2106.09685).
        learning_rate: peak for the adapters; token rows train at ``token_learning_rate``.
        epochs: passes over the mix; a fraction stops early.
        batch_tokens: padded tokens in one optimiser step.
        max_tokens: longest training sequence; longer texts are cut in the middle.
        row_weight_power: 0 = every batch counts the same, so a row of a long text, of which few fit into a batch,
            counts more than a short one; 1 = every row counts the same.
        style_balance: draw the queries of the mix so that their style says little about the label.
        start_from: what this run goes on from: ``"embedded"`` (the shipped guardian), the folder of another one, or a
            recipe that is trained first; ``None`` = the base. It may have fewer LoRA ranks.
        average_start: share of that guardian's weights in the result, which is the mean of what the run began and ended
            with: it keeps more of what the earlier stage did better (WiSE-FT, arXiv 2109.01903). Of the adapter, the
            factors A and B are averaged, each for itself, not their product.
        response_share: share of harmful rows that carry a safeguard response.
        wrong_label_share: share of those whose label token is replaced at random, so that ``[respond]`` alone forces
            a response that fits the text.
        label_smoothing: spread over the label tokens.
        refusals_only: learn from those written responses only that decline in so many words (``core.refusal``).
        precision: of the frozen weights and the matrix products; adapters, moments and losses are float32 in any case.
            Source: a core with AVX512-BF16 trained 455 tokens per second in bfloat16 and 175 in float32.
        validation_fraction: share of the non-composed rows held out, by hash of the text.
        threads: torch threads; 0 leaves torch's default.
        evaluation: files, or parts of them, that no training text may overlap with; a source that does fails the run.
    """

    base: str = EMBEDDED_MODEL
    base_revision: str | None = None
    task: Literal["both", "detection", "response"] = "both"
    seed: int = 0
    lora_rank: Annotated[int, Field(ge=1)] = 16
    lora_alpha: Annotated[int, Field(ge=1)] = 32
    lora_dropout: Annotated[float, Field(ge=0, lt=1)] = 0.0
    learning_rate: Annotated[float, Field(gt=0)] = 4e-4
    token_learning_rate: Annotated[float, Field(gt=0)] = 2e-3
    weight_decay: Annotated[float, Field(ge=0)] = 0.01
    warmup_fraction: Annotated[float, Field(ge=0, lt=1)] = 0.03
    clip_norm: Annotated[float, Field(gt=0)] = 1.0
    epochs: Annotated[float, Field(gt=0)] = 1.0
    batch_tokens: Annotated[int, Field(ge=64)] = 1024
    max_tokens: Annotated[int, Field(ge=32)] = 256
    row_weight_power: Annotated[float, Field(ge=0, le=1)] = 0.0
    style_balance: bool = False
    start_from: str | None = None
    average_start: Annotated[float, Field(ge=0, lt=1)] = 0.0
    lambda_response: Annotated[float, Field(ge=0)] = 0.5
    response_share: Annotated[float, Field(ge=0, le=1)] = 0.15
    wrong_label_share: Annotated[float, Field(ge=0, le=1)] = 0.1
    label_smoothing: Annotated[float, Field(ge=0, lt=1)] = 0.02
    refusals_only: bool = False
    precision: Literal["float32", "bfloat16"] = "float32"
    validation_fraction: Annotated[float, Field(ge=0, lt=1)] = 0.05
    threads: Annotated[int, Field(ge=0)] = 0
    evaluation: tuple[str | EvaluationFile, ...] = ()
    compose: Compose | None = None
    sources: tuple[Source, ...] = ()

    def __init__(self, **settings: Any) -> None:
        try:
            super().__init__(**settings)
        except ValidationError as error:
            known = {*TrainConfig.model_fields, *Source.model_fields, *Columns.model_fields, *Compose.model_fields}
            raise ConfigError(explained(error, lambda _: known)) from None

    @classmethod
    def from_toml(cls, path: Path) -> TrainConfig:
        """Read a recipe.

        Raises:
            ConfigError: unreadable, not TOML, an unknown key or a value out of range.
        """
        return cls(**read_toml(path, what="recipe"))
