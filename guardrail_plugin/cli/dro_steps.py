"""What the ``guardrail dro`` commands do: read files, call the library, write files, return a report."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

from guardrail_plugin.cli.dro_inputs import (
    Source,
    drawn_answers,
    load_source,
    named_source,
    panel_names,
    placed_prompt,
    query_sets,
    second_judge,
)
from guardrail_plugin.core.errors import ConfigError

if TYPE_CHECKING:
    from guardrail_plugin.dro import Journal, SoftPrompt
    from guardrail_plugin.dro.evaluate import SetResult

Report: TypeAlias = Mapping[str, object]


def fit_to_file(
    out: Path,
    *,
    queries: tuple[Path, Path],
    prompts: Sequence[str] | None,
    anchor: Mapping[str, Any],
    sampling: Mapping[str, Any],
    source: Source,
    resume: bool,
    quiet: bool,
) -> Report:
    """Fit an anchor and write it. Drawn responses lie beside it in ``*.drawn.jsonl``."""
    from guardrail_plugin.dro import SAFETY_PROMPTS, AnchorConfig, Sampling, fit_anchor
    from guardrail_plugin.dro.load import read_queries
    from guardrail_plugin.dro.prompts import named_prompts
    from guardrail_plugin.dro.writing import require_writable

    config = AnchorConfig(**anchor, sampling=Sampling(**sampling))
    harmful, harmless = (read_queries(path) for path in queries)
    named = named_prompts(list(prompts or SAFETY_PROMPTS))
    drawn = _beside(out, ".drawn.jsonl")
    require_writable(out, drawn)
    kept = _journal(drawn, resume=resume)
    model, tokenizer = load_source(source)
    fitted = fit_anchor(
        model,
        tokenizer,
        harmful,
        harmless,
        safety_prompts=named,
        config=config,
        journal=kept,
        quiet=quiet,
    )
    fitted.save(out)
    return {**fitted.report(), "conditions": list(fitted.conditions), "anchor": str(out), "drawn": str(drawn)}


def train_to_file(
    out: Path,
    *,
    anchor: Path,
    init: str,
    config: Path | None,
    seed: int | None,
    vanilla: tuple[Path, float] | None,
    source: Source,
    resume: bool,
    quiet: bool,
) -> Report:
    """Train a soft prompt and write it. The checkpoint lies beside it until the end."""
    from guardrail_plugin.dro import Anchor, Config, train, train_vanilla
    from guardrail_plugin.dro.draw import drawer_sha256
    from guardrail_plugin.dro.load import read_drawn
    from guardrail_plugin.dro.prompts import prompt_text
    from guardrail_plugin.dro.writing import require_writable

    settings = Config.from_toml(config) if config is not None else Config()
    if seed is not None:
        settings = settings.model_copy(update={"seed": seed})
    text, fitted = prompt_text(init), Anchor.load(anchor)
    checkpoint = _beside(out, ".checkpoint")
    require_writable(out, checkpoint)
    _forget(checkpoint, resume=resume)
    if vanilla is not None:
        read_drawn(vanilla[0])  # what is wrong with the file is told before the model is loaded
    model, tokenizer = load_source(source)
    common: dict[str, Any] = {"init": text, "config": settings, "checkpoint": checkpoint, "quiet": quiet}
    if vanilla is None:
        soft = train(model, tokenizer, fitted, **common)
    else:
        answers = drawn_answers(vanilla[0], fitted, drawn_by=drawer_sha256(model, tokenizer))
        soft = train_vanilla(model, tokenizer, answers, undesired_weight=vanilla[1], **common)
    soft.save(out)
    return {"soft_prompt": str(out), **_described(soft)}


def evaluate_prompt(
    *,
    harmful: Sequence[Path],
    harmless: Sequence[Path],
    references: Path | None,
    prompt: str | None,
    soft: Path | None,
    limit: int | None,
    settings: Mapping[str, Any],
    judge: bool,
    guardian: str | None,
    out: Path | None,
    journal: Path | None,
    source: Source,
    resume: bool,
    quiet: bool,
) -> Report:
    """Measure a prompt and write the report. Drawn responses are kept in the journal."""
    from guardrail_plugin.dro import EvaluationConfig, evaluate
    from guardrail_plugin.dro.load import read_references
    from guardrail_plugin.dro.writing import require_writable, writing

    config = EvaluationConfig(**settings)
    placed = placed_prompt(prompt, soft)
    if not (harmful or harmless or references):
        raise ConfigError("nothing to measure: give --harmful, --harmless or --references")
    sets = [query_sets(paths, limit=limit) for paths in (harmful, harmless)]
    pairs = read_references(references)[:limit] if references is not None else []
    drawn = journal or (_beside(out, ".drawn.jsonl") if out is not None else None)
    require_writable(*(path for path in (out, drawn) if path is not None))
    kept = _journal(drawn, resume=resume)
    model, tokenizer = load_source(source)
    with second_judge(guardian, wanted=judge and bool(harmful), device=source[2]) as second:
        result = evaluate(
            model,
            tokenizer,
            prompt=placed,
            harmful=sets[0],
            harmless=sets[1],
            references=pairs,
            judge=second,
            config=config,
            journal=kept,
            quiet=quiet,
        )
    report = {**result.as_dict(), "sets": [_with_interval(one) for one in result.sets]}
    report |= {"prompt": str(soft) if soft is not None else prompt, **named_source(source), "limit": limit}
    report |= {"settings": config.model_dump(mode="json")}
    if out is not None:
        with writing(out):
            out.write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")
    return report


def plot_to_file(out: Path, *, anchor: Path, soft: Sequence[Path], source: Source) -> Report:
    """Draw an anchor with soft prompts, and the curves of each."""
    from guardrail_plugin.dro import Anchor, SoftPrompt, plot_anchor, plot_curves, save_figure, soft_coordinates
    from guardrail_plugin.dro.plot import figure_files
    from guardrail_plugin.dro.writing import require_writable

    fitted = Anchor.load(anchor)
    require_writable(*figure_files(out))
    names = panel_names(soft, taken=fitted.conditions)
    prompts = {name: SoftPrompt.load(path) for name, path in names.items()}
    extra = {}
    if prompts:
        model, tokenizer = load_source(source)
        extra = {name: soft_coordinates(model, tokenizer, fitted, soft=one) for name, one in prompts.items()}
    written = list(save_figure(plot_anchor(fitted, extra), out))
    for name, one in prompts.items():
        if one.info.history:
            written += save_figure(plot_curves(one.info.history), _beside(out, f".{name}.curves.png"))
    return {"files": [str(path) for path in written]}


def inspect_file(file: Path, *, base_model: str | None) -> Report:
    """Describe a soft prompt or an anchor."""
    from guardrail_plugin.dro import Anchor, SoftPrompt

    try:
        anchor = Anchor.load(file)
    except ConfigError:
        return _described(SoftPrompt.load(file, base_model=base_model))
    counts = {"harmful": len(anchor.harmful), "harmless": len(anchor.harmless)}
    return {
        "kind": "anchor",
        **anchor.report(),
        **counts,
        "conditions": list(anchor.conditions),
        **anchor.identity.as_dict(),
    }


def align_to_folder(
    out: Path,
    *,
    data: Path | None,
    scale_on: tuple[Path | None, Path | None],
    settings: Mapping[str, Any],
    model: str | None,
    device: str | None,
    bfloat16: bool,
    quiet: bool,
) -> Report:
    """Make a half-aligned adapter."""
    from guardrail_plugin.dro.config import AlignConfig
    from guardrail_plugin.dro.half_aligned import align
    from guardrail_plugin.dro.load import load_chat_model, read_queries
    from guardrail_plugin.dro.writing import require_writable

    require_writable(out / "adapter_model.safetensors")
    on = [read_queries(path) for path in scale_on if path is not None]
    config = AlignConfig(**settings)
    loaded, tokenizer = load_chat_model(model, device=device, dtype="bfloat16" if bfloat16 else None)
    made = align(
        loaded, tokenizer, out, config=config, data=data, scale_on=(on[0], on[1]) if len(on) == 2 else None, quiet=quiet
    )
    return {"adapter": str(out), **made.as_dict()}


def _described(soft: SoftPrompt) -> dict[str, object]:
    shown = soft.info.model_dump(mode="json", exclude={"history"})
    return {"kind": "soft prompt", "tokens": len(soft), "dtype": str(soft.vectors.dtype), **shown}


def _with_interval(one: SetResult) -> dict[str, object]:
    from guardrail_plugin.evals.intervals import wilson

    return {**one.as_dict(), "interval95": list(wilson(one.hits, one.queries))}


def _beside(out: Path, ending: str) -> Path:
    if not out.name or out.is_dir():
        raise ConfigError(f"--out {out} is a folder: name a file")
    return out.with_name(out.name.removesuffix(".safetensors").removesuffix(".png").removesuffix(".json") + ending)


def _journal(path: Path | None, *, resume: bool) -> Journal:
    from guardrail_plugin.dro import Journal

    if path is not None:
        _forget(path, resume=resume)
    return Journal(path)


def _forget(path: Path, *, resume: bool) -> None:
    if not resume:
        path.unlink(missing_ok=True)
