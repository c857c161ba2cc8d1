"""Vanilla prompt tuning (vPT), the baseline that the paper compares with.

Desired answers are made likely, undesired ones unlikely, token by token:

    L = mean over all answers' tokens of  -log p(token) in a desired answer,  -w log(1 - p(token)) in an undesired one

Answers are learned as they are given, with the end of the turn behind them: one that was cut when it was drawn is
taught to end there. Draw them longer than for an anchor where that matters.

Source: prompt tuning, arXiv 2104.08691; unlikelihood, arXiv 1908.04319; as a baseline of arXiv 2401.18018.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import Tensor
from torch.nn import functional as F

from guardrail_plugin.core.errors import ConfigError
from guardrail_plugin.core.refusal import is_refusal as count_refusal
from guardrail_plugin.dro.config import Config
from guardrail_plugin.dro.fit import conversation
from guardrail_plugin.dro.identity import ModelIdentity, model_sha256
from guardrail_plugin.dro.inject import embed_batch
from guardrail_plugin.dro.loop import optimise
from guardrail_plugin.dro.prefix import Prefix, shared_head, shared_prefix
from guardrail_plugin.dro.sample import turn_end
from guardrail_plugin.dro.soft_prompt import SoftPrompt, text_prompt
from guardrail_plugin.dro.trainer import as_soft_prompt, frozen
from guardrail_plugin.models.chat_template import ChatSplice, Row

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase


@dataclass(frozen=True, slots=True)
class Answer:
    """One answer to learn from. ``repr`` shows no text.

    Attributes:
        desired: a refusal of a harmful query, or an answer to a harmless one.
    """

    query: str = field(repr=False)
    text: str = field(repr=False)
    desired: bool


def answers_from(
    responses: Mapping[str, Sequence[str]],
    *,
    harmful: bool,
    per_query: int = 1,
    is_refusal: Callable[[str], bool] = count_refusal,
) -> list[Answer]:
    """Return the first desired and the first undesired responses to each query.

    Args:
        responses: drawn responses by query.
        harmful: whether these queries are harmful, so that a refusal is desired.
        per_query: how many of either kind.
        is_refusal: what counts as a refusal.
    """
    answers: list[Answer] = []
    for query, texts in responses.items():
        for desired in (True, False):
            fitting = [text for text in texts if text.strip() and (is_refusal(text) == harmful) == desired]
            answers += [Answer(query, text, desired) for text in fitting[:per_query]]
    return answers


def train_vanilla(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    answers: Sequence[Answer],
    *,
    init: str,
    config: Config | None = None,
    undesired_weight: float = 1.0,
    checkpoint: str | Path | None = None,
    base_model: str | None = None,
    quiet: bool = False,
) -> SoftPrompt:
    """Train a soft prompt on answers. ``config``'s loss weights are not used; the rest is.

    Args:
        undesired_weight: of the unlikelihood term; the paper takes 5 for the Llama 2 family.

    Raises:
        ConfigError: there is no answer, or ``init`` is empty.
    """
    if not answers:
        raise ConfigError("there is no answer to learn from")
    config = config or Config()
    splice = ChatSplice(tokenizer)
    initial = text_prompt(model, splice.content_ids(init))  # (L, d)
    end = turn_end(model, splice)
    with frozen(model):
        problem = _VanillaProblem(model, splice, answers, end_id=end, undesired_weight=undesired_weight)
        trained = optimise(
            initial,
            problem.loss_of,
            len(answers),
            config=config,
            checkpoint=Path(checkpoint) if checkpoint is not None else None,
            fingerprint=problem.fingerprint,
            weigh=problem.tokens,
            quiet=quiet,
        )
    identity = ModelIdentity.of(model, tokenizer, base_model=base_model)
    return as_soft_prompt(trained, identity, method="vanilla", initial_text=init, config=config)


def likelihood_loss(log_probabilities: Tensor, desired: Tensor, *, undesired_weight: float = 1.0) -> Tensor:
    """Return the mean over tokens of -log p where desired and -log(1 - p) where not.

    Shapes: log_probabilities (T,) of the answers' tokens, desired (T,) boolean → ().
    """
    likely = -log_probabilities
    # 1 - p of a certain token is 0; the floor keeps its logarithm finite.
    unlikely = -(-torch.expm1(log_probabilities)).clamp(min=1e-6).log()
    return torch.where(desired, likely, undesired_weight * unlikely).mean()


class _VanillaProblem:
    def __init__(
        self,
        model: PreTrainedModel,
        splice: ChatSplice,
        answers: Sequence[Answer],
        *,
        end_id: int | None,
        undesired_weight: float,
    ) -> None:
        self._model = model
        self._undesired_weight = undesired_weight
        end = [] if end_id is None else [end_id]
        self._prompts = [splice.row(conversation(answer.query), soft=True) for answer in answers]
        self._answers = [[*splice.content_ids(answer.text), *end] for answer in answers]
        self._desired = [answer.desired for answer in answers]
        self._head = Prefix.of_ids(model, shared_head(self._prompts))
        told = [row.ids for row in self._prompts]
        self.fingerprint = f"vanilla:{model_sha256(model)}:{undesired_weight}:{told}:{self._answers}"

    def tokens(self, indices: Sequence[int]) -> float:
        """Return what the loss over some answers is the mean of."""
        return sum(len(self._answers[i]) for i in indices)

    def loss_of(self, soft: Tensor, indices: Sequence[int]) -> tuple[Tensor, Mapping[str, float]]:
        prefix, behind = shared_prefix(self._model, [self._prompts[i] for i in indices], soft, head=self._head)
        prompts = [row.ids for row in behind]
        answers = [self._answers[i] for i in indices]
        logs = answer_log_probabilities(self._model, prompts, answers, prefix=prefix)
        desired = torch.cat([torch.full((len(one),), self._desired[i]) for i, one in zip(indices, logs, strict=True)])
        loss = likelihood_loss(torch.cat(logs), desired.to(soft.device), undesired_weight=self._undesired_weight)
        return loss, {"loss": loss.item()}


def answer_log_probabilities(
    model: PreTrainedModel, prompts: Sequence[Sequence[int]], answers: Sequence[Sequence[int]], *, prefix: Prefix
) -> list[Tensor]:
    """Return log p of each answer's tokens behind its prompt, a prefix before all: B tensors (T,)."""
    rows = [Row((*prompt, *answer)) for prompt, answer in zip(prompts, answers, strict=True)]
    batch = embed_batch(rows, None, table=model.get_input_embeddings(), cached=prefix.length)
    logits = model(
        inputs_embeds=batch.inputs_embeds,
        attention_mask=batch.attention_mask,
        position_ids=batch.position_ids,
        past_key_values=prefix.rows(len(rows)),
        use_cache=prefix.cache is not None,
    ).logits  # (B, T, V)
    logs = []
    for i, (prompt, answer) in enumerate(zip(prompts, answers, strict=True)):
        # The token at position t is foretold at t - 1.
        foretold = logits[i, len(prompt) - 1 : len(prompt) + len(answer) - 1].float()  # (T, V)
        targets = torch.tensor(list(answer), device=logits.device)
        logs.append(-F.cross_entropy(foretold, targets, reduction="none"))
    return logs
