"""``guardrail mix``: look at what a recipe trains on, before hours are spent on it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console
from rich.table import Table

from guardrail_plugin.cli.reporting import reports_errors
from guardrail_plugin.core.errors import ConfigError

if TYPE_CHECKING:
    from guardrail_plugin.training.rows import Example


@reports_errors
def mix(
    *,
    config: Annotated[str, typer.Option("--config", metavar="NAME|FILE", help="Recipe.")] = "default",
    data: Annotated[
        list[Path] | None, typer.Option("--data", metavar="DIR|FILE", help="Folder of the recipe's files, or a JSONL.")
    ] = None,
) -> None:
    """Show one epoch of a recipe: rows by rail, source and label, and how much style alone tells of the label.

    Style is function words, length, punctuation and the first word. An AUROC of 0.5 means that nothing but the meaning
    is left to learn. Exit code 2 where a source is missing or overlaps with an evaluation file.
    """
    from guardrail_plugin.cli.recipes import assemble
    from guardrail_plugin.training.mix import epoch_examples, read_pools

    recipe, folders = assemble(config, data or [])
    unbalanced = recipe.model_copy(update={"style_balance": False})
    pools = read_pools(recipe, folders)
    console = Console(highlight=False)
    examples = epoch_examples(recipe, pools, 0)
    console.print(_by_source(examples))
    console.print(f"{len(examples)} rows, {len(pools.validation)} held out")
    _print_style(console, "as drawn", examples)
    if recipe.style_balance:
        _print_style(console, "before style balancing", epoch_examples(unbalanced, pools, 0))


def _by_source(examples: Sequence[Example]) -> Table:
    table = Table(box=None, pad_edge=False)
    for column in ("rail", "source", "harmful", "harmless"):
        table.add_column(column, justify="right" if column.startswith("harm") else "left")
    counts = Counter((e.rail, e.source, e.harmful) for e in examples)
    for rail, source in sorted({key[:2] for key in counts}):
        table.add_row(rail, source, str(counts[rail, source, True]), str(counts[rail, source, False]))
    return table


def _print_style(console: Console, title: str, examples: Sequence[Example]) -> None:
    from guardrail_plugin.training.style_probe import probe_style

    try:
        found = probe_style([e for e in examples if e.rail == "input"])
    except ConfigError as error:
        console.print(f"\nStyle probe, {title}: {error}")
        return
    console.print(f"\nStyle probe, {title}: AUROC {found.auroc:.3f} over {found.rows} queries")
    console.print(f"  harmful style:  {', '.join(found.harmful_style)}", soft_wrap=True)
    console.print(f"  harmless style: {', '.join(found.harmless_style)}", soft_wrap=True)
