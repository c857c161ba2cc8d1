"""Fit the anchor: hidden states under every prompt, principal components, two heads."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor
from tqdm import tqdm

from guardrail_plugin.core.errors import ConfigError
from guardrail_plugin.core.refusal import is_refusal as count_refusal
from guardrail_plugin.dro.anchor import Anchor
from guardrail_plugin.dro.basis import principal_components
from guardrail_plugin.dro.config import AnchorConfig
from guardrail_plugin.dro.draw import Drawer, Journal
from guardrail_plugin.dro.heads import Head, fit_head, fold_of_query
from guardrail_plugin.dro.hidden import collect_states
from guardrail_plugin.dro.identity import ModelIdentity
from guardrail_plugin.dro.prompts import NO_PROMPT, named_prompts
from guardrail_plugin.models.chat_template import ChatSplice, Row

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase


def fit_anchor(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    harmful: Sequence[str],
    harmless: Sequence[str],
    *,
    safety_prompts: Mapping[str, str] | Sequence[str],
    config: AnchorConfig | None = None,
    is_refusal: Callable[[str], bool] = count_refusal,
    compliance: Tensor | None = None,
    journal: Journal | None = None,
    base_model: str | None = None,
    quiet: bool = False,
) -> Anchor:
    """Fit an anchor on a model's states and on how often it refuses.

    Args:
        model: a causal language model in evaluation mode; it is not changed.
        tokenizer: with the model's chat template.
        harmful, harmless: training queries; about 100 of each.
        safety_prompts: texts, names from ``SAFETY_PROMPTS``, or texts by name. No prompt is always a condition too.
        config: ``AnchorConfig()`` if not given.
        is_refusal: what counts as a refusal.
        compliance: (C, Q) shares of responses that did not refuse, no prompt first, if they are known; else responses
            are drawn.
        journal: keeps drawn responses and supplies them again.
        base_model: the model's name, where it was loaded from a folder.
        quiet: no progress bar; there is none either where stderr is not a terminal.

    Raises:
        ConfigError: too few queries, or a head has nothing to learn; the message says what to do.
    """
    config = config or AnchorConfig()
    conditions = {NO_PROMPT: "", **named_prompts(safety_prompts)}
    queries = (*harmful, *harmless)
    if min(len(harmful), len(harmless)) < config.folds:
        raise ConfigError(f"{config.folds} folds need at least as many harmful and as many harmless queries")
    rows = condition_rows(ChatSplice(tokenizer), queries, conditions)
    states = torch.stack(
        [collect_states(model, r, layer=config.layer, batch_size=config.batch_size) for r in rows.values()]
    )  # (C, Q, d)
    if compliance is None:
        drawer = Drawer(model, tokenizer, sampling=config.sampling, journal=journal)
        compliance = _compliance(drawer, rows, queries, is_refusal=is_refusal, quiet=quiet)
    if compliance.shape != states.shape[:2]:
        raise ConfigError(f"compliance must be {tuple(states.shape[:2])}, got {tuple(compliance.shape)}")
    is_harmless = torch.arange(len(queries)) >= len(harmful)  # (Q,)
    mean, components = principal_components(states.flatten(0, 1), config.dims)
    coordinates = (states - mean) @ components.T  # (C, Q, m)
    refusal, harmfulness = _fit_heads(coordinates, compliance.float(), is_harmless, config=config)
    return Anchor(
        mean=mean,
        components=components,
        refusal=refusal,
        harmfulness=harmfulness,
        coordinates=coordinates,
        compliance=compliance.float(),
        conditions=conditions,
        harmful=tuple(harmful),
        harmless=tuple(harmless),
        identity=ModelIdentity.of(model, tokenizer, base_model=base_model),
        config=config,
    )


def condition_rows(splice: ChatSplice, queries: Sequence[str], conditions: Mapping[str, str]) -> dict[str, list[Row]]:
    """Return each query's conversation under each condition."""
    return {name: [splice.row(conversation(query, text)) for query in queries] for name, text in conditions.items()}


def conversation(query: str, system: str = "") -> list[dict[str, str]]:
    """Return one query, with a system message if there is one."""
    lead = [{"role": "system", "content": system}] if system else []
    return [*lead, {"role": "user", "content": query}]


def _fit_heads(
    coordinates: Tensor, compliance: Tensor, is_harmless: Tensor, *, config: AnchorConfig
) -> tuple[Head, Head]:
    """Shapes: coordinates (C, Q, m), compliance (C, Q), is_harmless (Q,)."""
    _require_refusals(compliance, config)
    conditions = len(coordinates)
    flat = coordinates.flatten(0, 1)  # (C Q, m)
    folds = fold_of_query(~is_harmless, config).repeat(conditions)  # (C Q,): a query is held out under all conditions
    harmfulness = fit_head(flat, is_harmless.float().repeat(conditions), folds, config=config)
    if harmfulness.accuracy < config.min_harm_accuracy:
        raise ConfigError(
            f"the harmfulness head has nothing to learn: in {config.dims} dimensions of layer {config.layer} it tells "
            f"harmful from harmless queries with accuracy {harmfulness.accuracy:.2f}. Try another layer or more dims."
        )
    refusal = fit_head(flat, compliance.flatten(), folds, config=config)
    if not bool(refusal.weight.any()):
        raise ConfigError(
            "the refusal head has nothing to learn: nothing in the hidden states helps to foretell which queries are "
            "refused. Draw more samples, or try another layer or more dims."
        )
    return refusal, harmfulness


def _compliance(
    drawer: Drawer,
    rows: Mapping[str, Sequence[Row]],
    queries: Sequence[str],
    *,
    is_refusal: Callable[[str], bool],
    quiet: bool,
) -> Tensor:
    """Return the share of drawn responses that do not refuse: (C, Q)."""
    shares: list[list[float]] = []
    total = len(rows) * len(queries)
    with tqdm(total=total, desc="Drawing responses", unit="query", disable=quiet or None) as bar:
        for name, condition in rows.items():
            drawn = drawer.draw(condition, queries, condition=name, progress=bar.update)
            shares.append([sum(not is_refusal(text) for text in texts) / len(texts) for texts in drawn])
    return torch.tensor(shares)


def _require_refusals(compliance: Tensor, config: AnchorConfig) -> None:
    refused = 1 - float(compliance.mean())
    if config.min_refusal_spread <= refused <= 1 - config.min_refusal_spread:
        return
    word = "almost never" if refused < 0.5 else "almost always"
    raise ConfigError(
        f"the refusal head has nothing to learn: the model {word} refuses ({refused:.1%} of all samples, at least "
        f"{config.min_refusal_spread:.0%} of either kind are needed). DRO amplifies refusals that a model already "
        "makes; it cannot teach them. Take a model tuned to refuse some harmful queries, or lower min_refusal_spread."
    )
