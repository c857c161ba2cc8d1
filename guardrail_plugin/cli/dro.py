"""``guardrail dro``: fit an anchor, train a soft prompt, measure it, draw it, look into its file."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, TypeAlias

import typer
from rich.console import Console
from rich.table import Table

from guardrail_plugin.cli.dro_steps import (
    align_to_folder,
    evaluate_prompt,
    fit_to_file,
    inspect_file,
    plot_to_file,
    train_to_file,
)
from guardrail_plugin.cli.options import DeviceOption, GuardianOption
from guardrail_plugin.cli.reporting import reports_errors

if TYPE_CHECKING:
    from collections.abc import Mapping

ModelOption: TypeAlias = Annotated[
    str | None, typer.Option("--model", metavar="PATH|HUB", help="Chat model. Default: the embedded one.")
]
AdapterOption: TypeAlias = Annotated[
    Path | None, typer.Option("--adapter", metavar="DIR", help="PEFT adapter to merge into the model.")
]
JsonOption: TypeAlias = Annotated[bool, typer.Option("--json", help="Print one JSON object.")]
QuietOption: TypeAlias = Annotated[bool, typer.Option("--quiet", help="No progress bar.")]
ResumeOption: TypeAlias = Annotated[
    bool, typer.Option("--resume/--fresh", help="Go on from what an earlier run left, or forget it.")
]

dro = typer.Typer(no_args_is_help=True, help="Soft safety prompts (DRO): trained, measured, drawn.")


def register(app: typer.Typer) -> None:
    """Add ``guardrail dro`` to the root command."""
    app.add_typer(dro, name="dro")


@dro.command()
@reports_errors
def fit(
    *,
    harmful: Annotated[Path, typer.Option("--harmful", metavar="FILE", help="Harmful queries: lines, or JSONL.")],
    harmless: Annotated[Path, typer.Option("--harmless", metavar="FILE", help="Harmless queries.")],
    out: Annotated[Path, typer.Option("--out", metavar="FILE", help="Anchor, in safetensors.")],
    prompt: Annotated[
        list[str] | None,
        typer.Option("--prompt", metavar="NAME|TEXT", help="Safety prompt. Default: default, mistral and short."),
    ] = None,
    samples: Annotated[int, typer.Option("--samples", min=1, help="Responses per query and prompt.")] = 20,
    max_new_tokens: Annotated[int, typer.Option("--max-new-tokens", min=1, help="Longest response.")] = 64,
    dims: Annotated[int, typer.Option("--dims", min=1, help="Principal components kept.")] = 4,
    layer: Annotated[int, typer.Option("--layer", help="Hidden state to read; -1 is the last.")] = -1,
    model: ModelOption = None,
    adapter: AdapterOption = None,
    device: DeviceOption = None,
    resume: ResumeOption = True,
    as_json: JsonOption = False,
    quiet: QuietOption = False,
) -> None:
    """Fit an anchor: hidden states, refusal rates, two heads. Drawn responses are kept beside it."""
    report = fit_to_file(
        out,
        queries=(harmful, harmless),
        prompts=prompt,
        anchor={"dims": dims, "layer": layer},
        sampling={"samples": samples, "max_new_tokens": max_new_tokens},
        source=(model, adapter, device),
        resume=resume,
        quiet=quiet,
    )
    _show(report, as_json=as_json, title=f"Anchor: {out}")


@dro.command()
@reports_errors
def train(
    *,
    anchor: Annotated[Path, typer.Option("--anchor", metavar="FILE", help="Anchor, from: guardrail dro fit.")],
    out: Annotated[Path, typer.Option("--out", metavar="FILE", help="Soft prompt, in safetensors.")],
    init: Annotated[str, typer.Option("--init", metavar="NAME|TEXT", help="Safety prompt to begin with.")] = "default",
    config: Annotated[Path | None, typer.Option("--config", metavar="FILE", help="Settings in TOML.")] = None,
    seed: Annotated[int | None, typer.Option("--seed", help="Overrides the settings' seed.")] = None,
    vanilla: Annotated[
        Path | None,
        typer.Option("--vanilla", metavar="FILE", help="Vanilla prompt tuning on these drawn responses instead."),
    ] = None,
    undesired_weight: Annotated[float, typer.Option("--undesired-weight", min=0, help="With --vanilla.")] = 1.0,
    model: ModelOption = None,
    adapter: AdapterOption = None,
    device: DeviceOption = None,
    resume: ResumeOption = True,
    as_json: JsonOption = False,
    quiet: QuietOption = False,
) -> None:
    """Train a soft prompt on the anchor's queries. Same seed, same file on a CPU."""
    report = train_to_file(
        out,
        anchor=anchor,
        init=init,
        config=config,
        seed=seed,
        vanilla=None if vanilla is None else (vanilla, undesired_weight),
        source=(model, adapter, device),
        resume=resume,
        quiet=quiet,
    )
    _show(report, as_json=as_json, title=f"Soft prompt: {out}")


@dro.command()
@reports_errors
def evaluate(
    *,
    harmful: Annotated[
        list[Path] | None, typer.Option("--harmful", metavar="FILE", help="Harmful queries: lines, or JSONL.")
    ] = None,
    harmless: Annotated[list[Path] | None, typer.Option("--harmless", metavar="FILE", help="Harmless queries.")] = None,
    references: Annotated[
        Path | None, typer.Option("--references", metavar="FILE", help="JSONL with text and response, for perplexity.")
    ] = None,
    prompt: Annotated[
        str | None, typer.Option("--prompt", metavar="NAME|TEXT", help="Safety prompt. Default: none.")
    ] = None,
    soft: Annotated[Path | None, typer.Option("--soft", metavar="FILE", help="Soft prompt instead.")] = None,
    limit: Annotated[int | None, typer.Option("--limit", min=1, help="First so many queries of each file.")] = None,
    drawn: Annotated[int, typer.Option("--drawn", min=1, help="Responses per query.")] = 25,
    kept: Annotated[
        int | None, typer.Option("--kept", min=1, help="Longest of them that count. Default: 20, or all if fewer.")
    ] = None,
    seed: Annotated[int, typer.Option("--seed", help="Of the responses.")] = 42,
    judge: Annotated[
        bool, typer.Option("--judge/--no-judge", help="Ask the guardian whether a response is unsafe.")
    ] = True,
    guardian: GuardianOption = None,
    out: Annotated[Path | None, typer.Option("--out", metavar="FILE", help="Report, in JSON.")] = None,
    journal: Annotated[
        Path | None, typer.Option("--journal", metavar="FILE", help="Keeps drawn responses. Default: beside --out.")
    ] = None,
    model: ModelOption = None,
    adapter: AdapterOption = None,
    device: DeviceOption = None,
    resume: ResumeOption = True,
    as_json: JsonOption = False,
    quiet: QuietOption = False,
) -> None:
    """Measure a prompt: compliance with harmful and refusal of harmless queries by any of k responses; perplexity."""
    report = evaluate_prompt(
        harmful=harmful or [],
        harmless=harmless or [],
        references=references,
        prompt=prompt,
        soft=soft,
        limit=limit,
        settings={"drawn": drawn, "kept": min(20, drawn) if kept is None else kept, "seed": seed},
        judge=judge,
        guardian=guardian,
        out=out,
        journal=journal,
        source=(model, adapter, device),
        resume=resume,
        quiet=quiet,
    )
    _show(report, as_json=as_json, title="Evaluation")


@dro.command()
@reports_errors
def plot(
    *,
    anchor: Annotated[Path, typer.Option("--anchor", metavar="FILE", help="Anchor, from: guardrail dro fit.")],
    out: Annotated[Path, typer.Option("--out", metavar="FILE", help="PNG; an SVG is written beside it.")],
    soft: Annotated[
        list[Path] | None, typer.Option("--soft", metavar="FILE", help="Soft prompts to draw too; needs the model.")
    ] = None,
    model: ModelOption = None,
    adapter: AdapterOption = None,
    device: DeviceOption = None,
    as_json: JsonOption = False,
) -> None:
    """Draw queries in the anchor's first two dimensions under every prompt, and the soft prompts' training curves."""
    report = plot_to_file(out, anchor=anchor, soft=soft or [], source=(model, adapter, device))
    _show(report, as_json=as_json, title="Figures")


@dro.command()
@reports_errors
def inspect(
    file: Annotated[Path, typer.Argument(metavar="FILE", help="Soft prompt or anchor.")],
    *,
    base_model: Annotated[
        str | None, typer.Option("--base-model", metavar="HUB", help="For a soft prompt that names no model.")
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Show what a soft prompt or an anchor is, and which model it belongs to. Loads no model."""
    _show(inspect_file(file, base_model=base_model), as_json=as_json, title=str(file))


@dro.command(hidden=True)
@reports_errors
def align(
    *,
    out: Annotated[Path, typer.Option("--out", metavar="DIR", help="Adapter, for PEFT.")],
    data: Annotated[
        Path | None, typer.Option("--data", metavar="DIR", help="Folder with permissively licensed answers.")
    ] = None,
    refusal_share: Annotated[
        float, typer.Option("--refusal-share", min=0, max=1, help="Of held-out harmful requests.")
    ] = 0.45,
    seed: Annotated[int, typer.Option("--seed", help="Of lessons, answers and order.")] = 0,
    harmful: Annotated[
        Path | None,
        typer.Option("--harmful", metavar="FILE", help="Requests to find the strength on; needs --harmless."),
    ] = None,
    harmless: Annotated[Path | None, typer.Option("--harmless", metavar="FILE", help="Harmless requests.")] = None,
    bfloat16: Annotated[bool, typer.Option("--bfloat16", help="Frozen weights in bfloat16.")] = False,
    model: ModelOption = None,
    device: DeviceOption = None,
    as_json: JsonOption = False,
    quiet: QuietOption = False,
) -> None:
    """Make a half-aligned adapter: a model that refuses some harmful requests, to prove DRO on."""
    settings = {"refusal_share": refusal_share, "seed": seed}
    report = align_to_folder(
        out,
        data=data,
        scale_on=(harmful, harmless),
        settings=settings,
        model=model,
        device=device,
        bfloat16=bfloat16,
        quiet=quiet,
    )
    _show(report, as_json=as_json, title=f"Adapter: {out}")


def _show(report: Mapping[str, object], *, as_json: bool, title: str) -> None:
    if as_json:
        typer.echo(json.dumps(report))
        return
    table = Table(title=title, title_justify="left", show_header=False)
    for name, value in report.items():
        shown = json.dumps(value, indent=1) if isinstance(value, (dict, list)) else value
        table.add_row(name, f"{shown:.4g}" if isinstance(shown, float) else str(shown))
    Console(highlight=False).print(table, markup=False)
