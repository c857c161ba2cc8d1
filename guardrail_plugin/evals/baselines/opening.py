"""``baseline:NAME`` → a guardian."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import TYPE_CHECKING

from guardrail_plugin.core.errors import ConfigError, did_you_mean
from guardrail_plugin.evals.baselines.guardian import BaselineGuardian, Classifier
from guardrail_plugin.evals.baselines.training import TrainingSets, training_sets

if TYPE_CHECKING:
    from guardrail_plugin.evals.dataset import EvalFile
    from guardrail_plugin.pool import InferencePool

BASELINES = ("tfidf", "minilm", "zero-shot")
PREFIX = "baseline:"


def open_baseline(
    name: str,
    *,
    train: Sequence[str] = (),
    pool: InferencePool,
    device: str | None = None,
    quiet: bool = False,
    measured: Sequence[EvalFile] = (),
) -> BaselineGuardian:
    """Build a baseline.

    Args:
        name: ``baseline:tfidf``, ``baseline:minilm``, ``baseline:zero-shot`` or ``baseline:zero-shot:MODEL``, where
            MODEL is a folder or hub id of a chat model (default: the embedded one).
        train: what the first two learn from; see ``training_sets``.
        pool: runs the language model of ``zero-shot``.
        device: of the sentence encoder.
        quiet: no progress bars.
        measured: what it is measured on: it learns from none of these rows.

    Raises:
        ConfigError: there is no such baseline, it has nothing to learn from, or a training file is malformed.
        ModelNotFoundError: the encoder's or the chat model's weights are nowhere.
        MissingDependencyError: an extra is missing.
    """
    kind, _, model = name.removeprefix(PREFIX).partition(":")
    if kind not in BASELINES or (model and kind != "zero-shot"):
        shown = ", ".join(PREFIX + known for known in BASELINES)
        raise ConfigError(f"no baseline {name!r}{did_you_mean(kind, BASELINES)}; there are {shown}")
    if kind == "zero-shot":
        if train:
            raise ConfigError("a zero-shot baseline learns from nothing; leave out --train")
        return BaselineGuardian(_zero_shot(model or None, pool=pool))
    sets = training_sets(train, measured=measured)  # read first: a malformed file should not wait for the weights
    return BaselineGuardian(_trained(kind, sets, device=device, quiet=quiet))


def _trained(kind: str, sets: TrainingSets, *, device: str | None, quiet: bool) -> Classifier:
    if kind == "tfidf":
        from guardrail_plugin.evals.baselines.tfidf import TfidfClassifier

        return TfidfClassifier(sets)
    from guardrail_plugin.evals.baselines.encoder import EncoderClassifier, MiniLM

    return EncoderClassifier(sets, encode=MiniLM(device=device), quiet=quiet)


def _zero_shot(model: str | None, *, pool: InferencePool) -> Classifier:
    from guardrail_plugin.evals.baselines.zero_shot import ZeroShotClassifier, answer_ids
    from guardrail_plugin.models.chat import ChatSource, LocalChat
    from guardrail_plugin.models.guard_files import GuardFiles

    chat = LocalChat.register(model, pool=pool)
    encode = partial(chat.template.tokenizer.encode, add_special_tokens=False)
    name = chat.key.removeprefix("chat:").rstrip("/").rpartition("/")[2]
    weights = GuardFiles.read(ChatSource.find(model).folder).fingerprint  # stored scores go by the id, and names repeat
    name = f"{name}-{weights}"
    return ZeroShotClassifier(model_id=name, key=chat.key, encode=chat.encode, label_ids=answer_ids(encode), pool=pool)
