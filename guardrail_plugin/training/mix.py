"""One epoch's examples: composed rows, drawn rows, and the safeguard responses that some of them carry."""

from __future__ import annotations

import hashlib
import json
import random
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from guardrail_plugin.core.errors import ConfigError
from guardrail_plugin.core.refusal import is_refusal
from guardrail_plugin.training.compose import Topic, compose, compose_answers, reframed
from guardrail_plugin.training.compose_documents import REQUEST_FILES, compose_documents
from guardrail_plugin.training.config import EvaluationFile, Source, TrainConfig
from guardrail_plugin.training.decontaminate import Evaluation
from guardrail_plugin.training.rows import Example, held_out, iter_corpus, load_source, resolve
from guardrail_plugin.training.rows import draw as draw_rows
from guardrail_plugin.training.style_probe import balance_style

_COMPOSED_FROM = ("frames.jsonl", "openings.jsonl", "padding.jsonl", "topics_*.jsonl", *REQUEST_FILES)


@dataclass(frozen=True, slots=True)
class Pools:
    """Everything that epochs draw from, read once."""

    train: tuple[tuple[Source, tuple[Example, ...]], ...]
    validation: tuple[Example, ...]
    responses: Mapping[str, tuple[tuple[str, str], ...]]  # hazard code → (theme, response)
    topics: tuple[Topic, ...] = ()  # re-framed questions of the training rows
    evaluation: Evaluation | None = None

    def fingerprint(self) -> str:
        """Return a hash of all texts and labels, in order."""
        digest = hashlib.sha256()
        for example in (*(e for _, rows in self.train for e in rows), *self.validation):
            digest.update(_line(asdict(example)))
        digest.update(_line([sorted(self.responses.items()), [asdict(topic) for topic in self.topics]]))
        return digest.hexdigest()


def data_fingerprint(config: TrainConfig, pools: Pools) -> str:
    """Return a hash of all text that a run's epochs are made of: the pools, and what rows are composed from."""
    digest = hashlib.sha256(pools.fingerprint().encode())
    for pattern in _COMPOSED_FROM if config.compose is not None else ():
        for row in iter_corpus(pattern):
            digest.update(_line(row))
    return digest.hexdigest()


def _line(value: object) -> bytes:
    return json.dumps(value).encode() + b"\n"  # ASCII: a lone surrogate is an escape


def read_pools(config: TrainConfig, data_folders: Sequence[Path]) -> Pools:
    """Read every source and split off the validation rows (by hash of the text: a row never changes sides).

    Raises:
        ConfigError: a file is missing or malformed, or a source overlaps with an evaluation file.
    """
    evaluated = [EvaluationFile(path=one) if isinstance(one, str) else one for one in config.evaluation]
    evaluation = Evaluation.of_files([(resolve(one.path, data_folders), one.categories) for one in evaluated])
    train, validation = [], []
    for source in config.sources:
        examples = _clean(source, load_source(source, data_folders), evaluation)
        kept = [e for e in examples if not held_out(e, config.validation_fraction)]
        held = [e for e in examples if held_out(e, config.validation_fraction)]
        train.append((source, tuple(kept)))
        validation += random.Random(config.seed).sample(held, min(len(held), 60))
    responses: dict[str, list[tuple[str, str]]] = defaultdict(list)
    for row in iter_corpus("responses_*.jsonl"):
        if not config.refusals_only or is_refusal(row["text"]):
            responses[row["label"]].append((row["theme"], row["text"]))
    wanted = config.compose.reframe if config.compose is not None else ()
    reframed_rows = (reframed(e) for source, rows in train if source.path in wanted for e in rows)
    topics = tuple(topic for topic in reframed_rows if topic is not None)
    written = {code: tuple(found) for code, found in responses.items()}
    return Pools(tuple(train), tuple(validation), written, topics, evaluation)


def _clean(source: Source, examples: Sequence[Example], evaluation: Evaluation) -> list[Example]:
    """Return the examples that overlap with no evaluation text.

    Raises:
        ConfigError: there are others, and the source does not say ``drop_overlaps``.
    """
    hits = evaluation.overlapping(examples)
    if hits and not source.drop_overlaps:
        files = ", ".join(sorted(set(hits.values())))
        raise ConfigError(f"{len(hits)} rows of {source.path} overlap with evaluation texts ({files}): take them out")
    return [example for i, example in enumerate(examples) if i not in hits]


def epoch_examples(config: TrainConfig, pools: Pools, epoch: int) -> list[Example]:
    """Return one epoch's examples in random order. A function of config, pools and epoch alone."""
    rng = random.Random(f"{config.seed}:{epoch}")
    examples = compose(config.compose, rng, extra=pools.topics) if config.compose is not None else []
    if config.compose is not None:
        examples += compose_answers(config.compose, rng)
        examples += _refusals(examples, config.compose.refusals, pools, rng)
        clean = [e for _, rows in pools.train for e in rows if e.rail == "tool_output" and not e.harmful]
        examples += compose_documents(clean, config.compose.documents, rng)
    for source, rows in pools.train:
        examples += draw_rows(source, rows, rng)
    composed = [e for e in examples if e.source == "composed"]
    by_chance = {composed[i] for i in pools.evaluation.overlapping(composed)} if pools.evaluation else set()
    examples = [e for e in examples if e not in by_chance and not _held_out_twin(e, config)]
    if config.style_balance:
        queries = [e for e in examples if e.rail == "input"]
        examples = [e for e in examples if e.rail != "input"] + balance_style(queries, rng)
    examples = [with_response(e, config, pools, rng) for e in examples]
    if config.task == "response":
        examples = [e for e in examples if e.response is not None]
    rng.shuffle(examples)
    return examples


def _refusals(examples: Sequence[Example], count: int, pools: Pools, rng: random.Random) -> list[Example]:
    """Pair harmful queries with safeguard responses of their hazard: answers that the output rail must let pass."""
    queries = [e for e in examples if e.harmful and e.hazard in pools.responses and e.rail == "input"]
    return [
        Example(text=_fitting(e, pools, rng), harmful=False, rail="output", query=e.text, source="composed")
        for e in rng.sample(queries, min(count, len(queries)))
    ]


def _fitting(example: Example, pools: Pools, rng: random.Random) -> str:
    """Return a written response of the example's theme, else of its hazard."""
    written = pools.responses[example.hazard or ""]
    return rng.choice([text for theme, text in written if theme == example.theme] or [text for _, text in written])


def _held_out_twin(example: Example, config: TrainConfig) -> bool:
    """Whether a composed row reads exactly like a held-out row of a source."""
    return example.source == "composed" and held_out(example, config.validation_fraction)


def with_response(example: Example, config: TrainConfig, pools: Pools, rng: random.Random) -> Example:
    """Give some harmful queries a safeguard response: of their theme where one is written, else of their hazard."""
    wanted = config.task != "detection" and rng.random() < config.response_share
    if not (wanted and example.harmful and example.hazard and example.rail == "input"):
        return replace(example, response=None)
    if example.hazard not in pools.responses:
        return replace(example, response=None)
    return replace(example, response=_fitting(example, pools, rng))
