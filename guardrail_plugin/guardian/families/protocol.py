"""What a guard family is: texts → token ids up to the verdict position, label probabilities → risk per hazard."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, Protocol, TypeAlias

from guardrail_plugin.core.conversation import Check
from guardrail_plugin.core.hazards import Taxonomy
from guardrail_plugin.core.verdict import Rail
from guardrail_plugin.guardian.families.labels import LabelSet

Task: TypeAlias = Literal["causal", "classify"]
"""What runs the checkpoint: a causal language model's next token, or a classification head."""


@dataclass(frozen=True, slots=True)
class Pass:
    """One question to the model.

    Attributes:
        input_ids: (L,) up to the verdict position.
        labels: the answers that count.
        prefix_len: ids at the start that other requests share, for the pool's key/value cache.
    """

    input_ids: tuple[int, ...] = field(repr=False)
    labels: LabelSet
    prefix_len: int = 0

    def then(self, suffix: Sequence[int], labels: LabelSet) -> Pass:
        """Return the question that goes on after this one's prompt and ``suffix``, reusing its keys and values."""
        return Pass((*self.input_ids, *suffix), labels, prefix_len=len(self.input_ids))


@dataclass(frozen=True, slots=True)
class Reading:
    """What a family reads from the answers about one window.

    Attributes:
        risk: probability of harm, before calibration.
        shares: weight per native label of the harm; ``Family.codes`` maps them to hazard codes. Empty: not named.
        independent: the shares are no parts of one whole: each is a probability of its own, which others take nothing
            from.
    """

    risk: float
    shares: Mapping[str, float] = field(default_factory=dict)
    independent: bool = False


@dataclass(frozen=True, slots=True)
class Window:
    """How a long text is cut, in content tokens: windows of ``tokens`` that share ``overlap`` with their neighbours."""

    tokens: int = 1024
    overlap: int = 128


class Family(Protocol):
    """One family of guard models. Pure: no I/O, no model. Safe to share between threads.

    Attributes:
        name: as users write it (``family="llama-guard-3"``).
        rails: where it can serve; a check of another rail is an error, never a silent guess.
        taxonomy: the hazards that its verdicts can name.
        codes: native label → hazard code, ``None`` where the library has no hazard for it.
        window: how long texts are cut.
    """

    name: str
    rails: frozenset[Rail]
    taxonomy: Taxonomy
    codes: Mapping[str, str | None]
    window: Window

    def encode(self, text: str) -> list[int]:
        """Return the ids of a text under judgement. None of them is a control token, whatever the text says."""

    def passes(self, check: Check, content: Sequence[int]) -> tuple[Pass, ...]:
        """Return the questions about one window (``content``: its ids) that decide the risk."""

    def read(self, answers: Sequence[Sequence[float]]) -> Reading:
        """Return the risk from one row of label log-probabilities (K,) per question of ``passes``."""

    def naming(self, check: Check, content: Sequence[int]) -> tuple[Pass, ...]:
        """Return the questions that name the harm of a risky window; none where ``read`` has named it for good."""

    def name_harm(self, reading: Reading, answers: Sequence[Sequence[float]]) -> Reading:
        """Return the reading with its ``shares`` from the answers to ``naming``, or corrected by them."""


class FamilyTokenizer(Protocol):
    """Two ways to read text with one vocabulary: a template's control tokens count, a content's are plain characters.

    Attributes:
        bos: ids that stand in front of every prompt.
        ids_per_token: how many ids stand for what is one token of a model's, about; more than one where they are
            characters.
    """

    bos: tuple[int, ...]
    ids_per_token: int

    def template(self, text: str, *, first: bool = False) -> list[int]:
        """Return the ids of a part of a template, control tokens recognised. ``first``: nothing stands before it."""

    def content(self, text: str, *, first: bool = False) -> list[int]:
        """Return the ids of foreign text. None is a control token. ``first``: no template stands before it."""

    def label(self, text: str) -> tuple[int, ...]:
        """Return the ids of an answer."""

    def wrap(self, *, pair: bool = False) -> tuple[tuple[int, ...], ...]:
        """Return what a classifier's tokenizer puts before, between (with ``pair``) and after its texts."""

    @property
    def end(self) -> int:
        """Id of the token that ends a turn or text; in no content."""


class Template(Protocol):
    """A checkpoint's own chat template."""

    def __call__(self, messages: Sequence[Mapping[str, Any]], **options: Any) -> str:
        """Return the rendered prompt, ready for the assistant's turn. May raise anything."""


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """What is known of a checkpoint without its weights.

    Attributes:
        model_id: hub id, folder or the server's name of the model.
        architectures: of ``config.json``; empty where there is none (a server).
        id2label: of a classification head.
        multi_label: its classes are judged one by one.
        max_positions: the longest input that it can read, in tokens; ``None`` where unknown.
        template: source of its chat template; empty where it has none.
    """

    model_id: str
    architectures: tuple[str, ...] = ()
    id2label: Mapping[int, str] = field(default_factory=dict)
    multi_label: bool = False
    max_positions: int | None = None
    template: str = field(default="", repr=False)

    @property
    def label(self) -> str:
        """The model id without the hub's owner, lower case: what recognition looks at first."""
        return self.model_id.rstrip("/").rpartition("/")[2].lower()


@dataclass(frozen=True, slots=True, kw_only=True)
class FamilyOptions:
    """What a caller may ask of a family; one that it has no use for is an error.

    Attributes:
        hazards: the hazard codes to judge; ``None``: the family's default.
        policy_text: the written policy of ``policy``.
        labels: of a classifier: label name → hazard code, ``"safe"``, or ``None`` for harm that has no code.
        strictness: 0..1, weight of answers between safe and unsafe (Qwen3Guard's ``Controversial``).
    """

    hazards: tuple[str, ...] | None = None
    policy_text: str | None = field(default=None, repr=False)
    labels: Mapping[str, str | None] | None = None
    strictness: float | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Kit:
    """What a family is built from."""

    checkpoint: Checkpoint
    tokenizer: FamilyTokenizer = field(repr=False)
    template: Template | None = field(default=None, repr=False)
    options: FamilyOptions = field(default_factory=FamilyOptions)


@dataclass(frozen=True, slots=True, kw_only=True)
class FamilyKind:
    """A family as it is registered: how to recognise its checkpoints and how to build it.

    Attributes:
        recognises: tells whether a checkpoint is one of the family's.
        build: makes the family for a checkpoint.
        task: what runs it.
        canary: a plainly harmful text, for families that do not judge harm but something else.
    """

    name: str
    recognises: Callable[[Checkpoint], bool]
    build: Callable[[Kit], Family]
    task: Task = "causal"
    canary: str | None = None
