"""``guardrail models``: the guard models that can be loaded, what they cost and cover, and which are here."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console
from rich.table import Table
from rich.text import Text

from guardrail_plugin.cli.reporting import reports_errors

if TYPE_CHECKING:
    from guardrail_plugin.guardian.families.cards import ModelCard

_BYTES = {"bf16": 2, "fp32": 4}
_OWN = "guardrail"


@reports_errors
def models(
    *,
    family: Annotated[str | None, typer.Option("--family", metavar="NAME", help="Only this family.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON object per line.")] = False,
) -> None:
    """List guard models: family, size, licence, what they cover, memory and work per verdict, published F1.

    All figures of quality are other people's, on their cuts of the data; measure with: guardrail evaluate.
    """
    from guardrail_plugin.guardian.families.cards import CARDS
    from guardrail_plugin.guardian.families.registry import family_names

    names = (_OWN, *family_names())
    if family is not None and family not in names:
        raise typer.BadParameter(f"{family!r} is none of {', '.join(names)}")
    records = [_record(card) for card in CARDS if family in (None, card.family)]
    if as_json:
        for record in records:
            typer.echo(json.dumps(record))
        return
    console = Console(highlight=False)
    console.print(_table(records))
    bare = [name for name in names if name not in {card.family for card in CARDS} and family in (None, name)]
    if bare:
        console.print(f"Families without a public model listed here: {', '.join(bare)}", markup=False)
    console.print(
        "GB: weights in bfloat16. GFLOP: one verdict on 64 tokens, the prompt's shared part kept / not kept.\n"
        "F1: published by others on their cuts of public sets, not measured here; sources in --json.",
        markup=False,
    )


def _record(card: ModelCard) -> dict[str, object]:
    published = card.published
    return {
        "model": card.model,
        "family": card.family,
        "parameters": card.parameters,
        "licence": card.licence,
        "covers": card.covers,
        "memory_gb": {name: round(card.memory_gb(bytes_per_weight=n), 2) for name, n in _BYTES.items()},
        "gflop_per_verdict": {
            "prefix_kept": round(card.gflops(prefix_kept=True), 1),
            "nothing_kept": round(card.gflops(prefix_kept=False), 1),
        },
        "published_f1": None if published is None else published.f1,
        "published_by": None if published is None else published.source,
        "present": _present(card),
    }


def _present(card: ModelCard) -> bool:
    """Tell whether the weights are on this machine. Fetches nothing."""
    from guardrail_plugin.core.errors import GuardrailError
    from guardrail_plugin.models.locate import EMBEDDED_MODEL, locate

    try:
        locate(EMBEDDED_MODEL if card.family == _OWN else card.model, offline=True)
    except GuardrailError:
        return False
    return True


def _table(records: list[dict[str, object]]) -> Table:
    """Return a table of two lines per model that fits 80 columns."""
    table = Table(box=None, pad_edge=False)
    table.add_column("model", overflow="fold")
    for heading in ("GB", "GFLOP", "F1", "here"):
        table.add_column(heading, justify="right", no_wrap=True)
    for record in records:
        memory, work, f1 = record["memory_gb"], record["gflop_per_verdict"], record["published_f1"]
        assert isinstance(memory, dict)  # noqa: S101 - made above
        assert isinstance(work, dict)  # noqa: S101
        name = Text.assemble(str(record["model"]), ("\n  {family}, {licence}: {covers}".format(**record), "dim"))
        cost = f"{work['prefix_kept']:.0f} / {work['nothing_kept']:.0f}"
        shown = "-" if not isinstance(f1, dict) else f"{min(f1.values()):.0f}-{max(f1.values()):.0f}"
        table.add_row(name, f"{memory['bf16']:.1f}", cost, shown, "yes" if record["present"] else "no")
    return table
