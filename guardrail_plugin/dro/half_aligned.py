"""Make a half-aligned model: a small adapter with which a model refuses some of what it should, to prove DRO on.

DRO amplifies refusals that a model already makes. A model that never refuses has nothing to amplify, so a low-rank
adapter is trained on a few hundred refusals and helpful answers, and then scaled until the wanted share of held-out
harmful requests is refused.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from safetensors.torch import save_file
from tqdm import tqdm

from guardrail_plugin.core.errors import MissingDependencyError
from guardrail_plugin.dro.config import AlignConfig, Sampling
from guardrail_plugin.dro.dial import Dial
from guardrail_plugin.dro.fit import conversation
from guardrail_plugin.dro.identity import ModelIdentity
from guardrail_plugin.dro.lessons import Lesson, lessons
from guardrail_plugin.dro.sample import Sampler, turn_end
from guardrail_plugin.dro.sft import Example, teach
from guardrail_plugin.models.chat_template import ChatSplice

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

METADATA_KEY = "guardrail_half_aligned"
_TARGETS = "all-linear"


@dataclass(frozen=True, slots=True)
class Aligned:
    """What came out.

    Attributes:
        scale: the factor on the trained adapter.
        steps: optimiser steps taken.
        loss: mean over the last ten steps.
        refused: share of held-out harmful requests that are refused, by scale tried.
        refused_harmless: share of held-out harmless ones, at the final scale.
    """

    scale: float
    steps: int
    loss: float
    refused: dict[float, float]
    refused_harmless: float

    def as_dict(self) -> dict[str, Any]:
        """Return plain JSON types."""
        return {name: getattr(self, name) for name in ("scale", "steps", "loss", "refused", "refused_harmless")}


def align(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    out: Path,
    *,
    config: AlignConfig | None = None,
    data: Path | None = None,
    scale_on: tuple[Sequence[str], Sequence[str]] | None = None,
    quiet: bool = False,
) -> Aligned:
    """Train and scale an adapter and write it to a folder that PEFT loads. Same seed, same file (on a CPU).

    Args:
        model: wrapped by PEFT in place; not for use afterwards.
        data: folder with permissively licensed answers; none: own lessons only.
        scale_on: harmful and harmless requests to find the scale on; own held-out ones if not given.

    Raises:
        ConfigError: a file of ``data`` cannot be read.
        MissingDependencyError: peft is not installed.
    """
    config = config or AlignConfig()
    identity = ModelIdentity.of(model)
    held_out, taught = _drawn(config, data)
    splice = ChatSplice(tokenizer)
    answers = _own_answers(model, tokenizer, splice, taught, config=config, quiet=quiet)
    torch.manual_seed(config.seed)
    peft = _with_adapter(model, config)
    end = turn_end(model, splice)
    examples = [_example(splice, lesson, text, end, config) for lesson, text in zip(taught, answers, strict=True)]
    losses = list(teach(peft, examples, config=config, quiet=quiet))
    bad, good = scale_on or ([o.query for o in held_out if o.harmful], [o.query for o in held_out if not o.harmful])
    rows = {kind: [splice.row(conversation(q)) for q in queries] for kind, queries in ((True, bad), (False, good))}
    dial = Dial(peft, tokenizer, rows, seed=config.seed)
    scale, refused = dial.turn(share=config.refusal_share, tries=config.tries)
    loss = sum(losses[-10:]) / len(losses[-10:])
    result = Aligned(scale, len(losses), loss, refused, dial.refused(harmful=False))
    _write(peft, out, result, config=config, identity=identity)
    return result


def _drawn(config: AlignConfig, data: Path | None) -> tuple[list[Lesson], list[Lesson]]:
    """Return held-out lessons, one of each of the first own topics of either kind, and those of other topics."""
    drawn = lessons(
        harmful=config.harmful + config.held_out,
        harmless=config.harmless + config.held_out,
        everyday=config.everyday,
        answered=config.answered,
        frames=config.frames,
        bare_harmful=config.bare_harmful,
        seed=config.seed,
        data=data,
    )
    held_out: dict[str, Lesson] = {}
    for harmful in (True, False):
        own = {one.topic: one for one in drawn if one.harmful == harmful and (harmful or one.answer is None)}
        held_out |= dict(islice(own.items(), config.held_out))
    return list(held_out.values()), [one for one in drawn if one.topic not in held_out]


def _own_answers(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    splice: ChatSplice,
    taught: Sequence[Lesson],
    *,
    config: AlignConfig,
    quiet: bool,
) -> list[str]:
    """Return every lesson's answer; the base model writes the missing ones, without a system message."""
    sampling = Sampling(samples=1, max_new_tokens=config.answer_tokens + 1, rows=48, seed=config.seed)
    asked = [one for one in taught if one.answer is None]
    rows = [splice.row(conversation(one.query)) for one in asked]
    made = Sampler(model, tokenizer, sampling=sampling).responses(rows)
    shown = tqdm(made, total=len(rows), desc="Own answers", unit="row", disable=quiet or None)
    own = iter([texts[0] for texts in shown])
    return [one.answer if one.answer is not None else next(own) for one in taught]


def _example(splice: ChatSplice, lesson: Lesson, answer: str, end: int | None, config: AlignConfig) -> Example:
    ids = [*splice.content_ids(answer), *([] if end is None else [end])][: config.answer_tokens]
    return Example(splice.row(conversation(lesson.query, lesson.system)).ids, tuple(ids))


def _with_adapter(model: PreTrainedModel, config: AlignConfig) -> Any:
    try:
        from peft import LoraConfig, get_peft_model
    except ImportError:
        raise MissingDependencyError("peft", extra="local") from None
    return get_peft_model(
        model,
        LoraConfig(
            task_type="CAUSAL_LM",
            r=config.rank,
            lora_alpha=config.alpha,
            target_modules=_TARGETS,
            lora_dropout=0.0,
        ),
    )


def _write(peft: Any, out: Path, result: Aligned, *, config: AlignConfig, identity: ModelIdentity) -> None:
    """Write the adapter in bfloat16, with all that says where it comes from in its header."""
    from peft import get_peft_model_state_dict

    out.mkdir(parents=True, exist_ok=True)
    own = peft.peft_config["default"]
    own.base_model_name_or_path, own.revision, own.inference_mode = identity.base_model, identity.revision, True
    own.target_modules = sorted(own.target_modules)  # a set: in another order in every process
    own.save_pretrained(str(out))
    tensors = {
        name: t.to(torch.bfloat16).contiguous()
        for name, t in get_peft_model_state_dict(peft, save_embedding_layers=False).items()
    }
    described = {
        "base_model": identity.base_model,
        "revision": identity.revision,
        "config": config.model_dump(mode="json"),
        "result": result.as_dict(),
    }
    # One entry: safetensors writes several in any order, and the same seed should give the same file.
    save_file(tensors, out / "adapter_model.safetensors", {METADATA_KEY: json.dumps(described)})
