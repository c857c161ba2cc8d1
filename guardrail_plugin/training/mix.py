"""One epoch's examples: composed rows, drawn rows, and the safeguard responses that some of them carry."""

from __future__ import annotations

import random
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from guardrail_plugin.training.compose import Topic, compose, reframed
from guardrail_plugin.training.config import Source, TrainConfig
from guardrail_plugin.training.rows import Example, held_out, iter_corpus, load_source
from guardrail_plugin.training.rows import draw as draw_rows


@dataclass(frozen=True, slots=True)
class Pools:
    """Everything that epochs draw from, read once."""

    train: tuple[tuple[Source, tuple[Example, ...]], ...]
    validation: tuple[Example, ...]
    responses: Mapping[str, tuple[tuple[str, str], ...]]  # hazard code → (theme, response)
    topics: tuple[Topic, ...] = ()  # re-framed questions of the training rows


def read_pools(config: TrainConfig, data_folders: Sequence[Path]) -> Pools:
    """Read every source and split off the validation rows (by hash of the text: a row never changes sides)."""
    train, validation = [], []
    for source in config.sources:
        examples = load_source(source, data_folders)
        kept = [e for e in examples if not held_out(e, config.validation_fraction)]
        held = [e for e in examples if held_out(e, config.validation_fraction)]
        train.append((source, tuple(kept)))
        validation += random.Random(config.seed).sample(held, min(len(held), 60))
    responses: dict[str, list[tuple[str, str]]] = defaultdict(list)
    for row in iter_corpus("responses_*.jsonl"):
        responses[row["label"]].append((row["theme"], row["text"]))
    wanted = config.compose.reframe if config.compose is not None else ()
    reframed_rows = (reframed(e) for source, rows in train if source.path in wanted for e in rows)
    topics = tuple(topic for topic in reframed_rows if topic is not None)
    written = {code: tuple(found) for code, found in responses.items()}
    return Pools(tuple(train), tuple(validation), written, topics)


def epoch_examples(config: TrainConfig, pools: Pools, epoch: int) -> list[Example]:
    """Return one epoch's examples in random order. A function of config, pools and epoch alone."""
    rng = random.Random(f"{config.seed}:{epoch}")
    examples = compose(config.compose, rng, extra=pools.topics) if config.compose is not None else []
    for source, rows in pools.train:
        examples += draw_rows(source, rows, rng)
    # A row of our own may read like a composed one; what is held out stays out.
    examples = [e for e in examples if e.source != "composed" or not held_out(e, config.validation_fraction)]
    examples = [with_response(e, config, pools, rng) for e in examples]
    if config.task == "response":
        examples = [e for e in examples if e.response is not None]
    rng.shuffle(examples)
    return examples


def with_response(example: Example, config: TrainConfig, pools: Pools, rng: random.Random) -> Example:
    """Give some harmful queries a safeguard response: of their theme where one is written, else of their hazard."""
    wanted = config.task != "detection" and rng.random() < config.response_share
    if not (wanted and example.harmful and example.hazard and example.rail == "input"):
        return replace(example, response=None)
    written = pools.responses.get(example.hazard, ())
    fitting = [text for theme, text in written if theme == example.theme] or [text for _, text in written]
    return replace(example, response=rng.choice(fitting)) if fitting else replace(example, response=None)
