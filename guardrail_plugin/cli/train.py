"""``guardrail train``: train a guardian from a recipe, from labelled files, or from both."""

from __future__ import annotations

import os
import shlex
import shutil
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console
from rich.table import Table

from guardrail_plugin.cli.options import DeviceOption
from guardrail_plugin.cli.reporting import reports_errors
from guardrail_plugin.core.errors import ConfigError

if TYPE_CHECKING:
    from guardrail_plugin.training.config import TrainConfig
    from guardrail_plugin.training.loop import TrainResult
    from guardrail_plugin.training.validation import Validation

CHECKPOINT = "checkpoint.safetensors"  # as the training loop names them
HISTORY = "history.jsonl"


@reports_errors
def train(
    context: typer.Context,
    *,
    out: Annotated[Path, typer.Option("--out", metavar="DIR", help="Folder for the guardian and its checkpoint.")],
    data: Annotated[
        list[Path] | None, typer.Option("--data", metavar="DIR|FILE", help="Folder of the recipe's files, or a JSONL.")
    ] = None,
    config: Annotated[
        str | None, typer.Option("--config", metavar="NAME|FILE", help="Recipe: 'default', or a TOML file.")
    ] = None,
    base: Annotated[
        str | None, typer.Option("--base", metavar="PATH|HUB", help="Base model. Default: the recipe's.")
    ] = None,
    base_revision: Annotated[
        str | None, typer.Option("--base-revision", metavar="REV", help="Commit, tag or branch of the base on the hub.")
    ] = None,
    start_from: Annotated[
        str | None,
        typer.Option("--start-from", metavar="NAME|DIR", help="Guardian to go on from: embedded, or a folder."),
    ] = None,
    max_steps: Annotated[
        int | None, typer.Option("--max-steps", min=1, metavar="N", help="Stop after so many steps.")
    ] = None,
    device: DeviceOption = None,
    resume: Annotated[
        bool, typer.Option("--resume/--fresh", help="Go on from DIR's checkpoint, or forget what is in DIR.")
    ] = True,
    quiet: Annotated[bool, typer.Option("--quiet", help="No progress bar.")] = False,
) -> None:
    """Train a guardian. Prints validation figures, where the guardian is, and what to run next.

    Each --data file in JSONL ("text", "harmful": true or false, maybe "category") is learnt for the input rail, beside
    the recipe's own sources. Without --config the embedded guardian (or --start-from) goes on learning from them and,
    not to forget, from some of this library's own rows; with --base and no start a new one is trained. --data folders
    are where a recipe's files are looked for. The same recipe, data and seed give the same guardian on a CPU.
    """
    from guardrail_plugin.cli.recipes import assemble, first_stage

    recipe, folders = assemble(config, data or [], base=base, base_revision=base_revision, start_from=start_from)
    _prepare(out, resume=resume)
    from guardrail_plugin.training.loop import train as run

    start = first_stage(recipe, folders, out=out, device=device, max_steps=max_steps, quiet=quiet)
    result = run(recipe, data_folders=folders, out=out, device=device, start=start, max_steps=max_steps, quiet=quiet)
    if os.environ.get("RANK", "0") == "0":  # under torchrun one process speaks for all
        _print(Console(highlight=False), result, recipe, can_evaluate=_has_command(context, "evaluate"))


def _prepare(out: Path, *, resume: bool) -> None:
    """Make way in the output folder.

    Raises:
        ConfigError: it holds a finished guardian, hours of work that nobody asked to lose; or an earlier stage cannot
            be deleted.
    """
    from guardrail_plugin.guardian.manifest import MANIFEST_FILE

    if not resume:
        for name in (CHECKPOINT, HISTORY):
            (out / name).unlink(missing_ok=True)
        for stage in out.glob("stage-*"):
            _forget_stage(stage)
    elif (out / MANIFEST_FILE).is_file() and not (out / CHECKPOINT).is_file():
        raise ConfigError(f"{out} holds a finished guardian; name another --out, or replace it with --fresh")


def _forget_stage(stage: Path) -> None:
    """Delete an earlier stage's folder; a link to one is taken away alone, and what is no stage stays."""
    from guardrail_plugin.guardian.manifest import MANIFEST_FILE

    if stage.is_symlink():
        stage.unlink(missing_ok=True)
    elif any((stage / name).is_file() for name in (MANIFEST_FILE, CHECKPOINT, HISTORY)):
        shutil.rmtree(stage, ignore_errors=True)  # under torchrun other processes delete it at the same time
        if stage.exists():
            raise ConfigError(f"cannot delete {stage}")


def _print(console: Console, result: TrainResult, recipe: TrainConfig, *, can_evaluate: bool) -> None:
    console.print(f"\n{result.steps} steps in {result.seconds / 60:.1f} min")
    figures = result.validation
    if figures.f1:
        console.print(_by_rail(figures))
    else:
        console.print("No figures per rail: the held-out rows of no rail have both labels.")
    if figures.recall_by_source or figures.false_positives_by_source:
        console.print(_by_source(figures))
    console.print(f"Guardian: {result.folder}", soft_wrap=True, markup=False)
    console.print("Next:")
    for command in _next_commands(result.folder, can_evaluate=can_evaluate):
        console.print(f"  {command}", soft_wrap=True, markup=False)


def _by_rail(figures: Validation) -> Table:
    table = Table(title=f"Validation, {figures.rows} held-out rows", title_justify="left")
    for column in ("rail", "F1", "AUROC", "temperature", "threshold"):
        table.add_column(column, justify="left" if column == "rail" else "right")
    for rail, calibration in figures.calibration.items():
        measured = (figures.f1.get(rail), figures.auroc.get(rail))  # none of a rail that keeps what the run began with
        shown = ("-" if figure is None else f"{figure:.3f}" for figure in measured)
        table.add_row(rail, *shown, f"{calibration.temperature:.2f}", f"{calibration.threshold:.2f}")
    return table


def _by_source(figures: Validation) -> Table:
    table = Table(title="By source", title_justify="left")
    for column in ("source", "recall", "false positives"):
        table.add_column(column, justify="left" if column == "source" else "right")
    for source in sorted({*figures.recall_by_source, *figures.false_positives_by_source}):
        shares = (figures.recall_by_source.get(source), figures.false_positives_by_source.get(source))
        table.add_row(source, *("-" if share is None else f"{share:.1%}" for share in shares))
    return table


def _next_commands(folder: Path, *, can_evaluate: bool) -> tuple[str, str]:
    guardian = shlex.quote(str(folder))
    return (
        f'guardrail check --guardian {guardian} "How do I kill a Python process?"',
        f"guardrail evaluate --guardian {guardian} --suite DATA_FOLDER --out {guardian}/report"
        if can_evaluate
        else f"guardrail check --guardian {guardian} --file LABELLED.jsonl --json --no-response",
    )


def _has_command(context: typer.Context, name: str) -> bool:
    group = context.parent.command if context.parent is not None else None
    return name in getattr(group, "commands", {})
