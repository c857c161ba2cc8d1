"""``guardrail bench``: measure this machine, simulate a fleet. Every published figure of the pool is one command."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from guardrail_plugin.cli.reporting import reports_errors

commands = typer.Typer(
    name="bench", help="Measure the pool and its engines on this machine, or simulate a fleet.", no_args_is_help=True
)


@commands.command()
@reports_errors
def run(
    *,
    out: Annotated[Path, typer.Option("--out", metavar="DIR", help="Folder for bench.json, bench.md and bench.png.")],
    only: Annotated[
        list[str] | None,
        typer.Option("--only", metavar="PART", help="verdicts, responses, beside, pool, overload, grid. Repeatable."),
    ] = None,
    contender: Annotated[
        list[str] | None, typer.Option("--contender", metavar="NAME", help="Measure these only. Repeatable.")
    ] = None,
    requests: Annotated[int, typer.Option("--requests", min=8, help="Per cell.")] = 400,
    rounds: Annotated[int, typer.Option("--rounds", min=1, help="Contenders alternate within each.")] = 5,
    quick: Annotated[bool, typer.Option("--quick", help="A look: 24 requests, one round. Publish nothing.")] = False,
    seed: Annotated[int, typer.Option("--seed", min=0, help="Of the requests.")] = 0,
) -> None:
    """Measure verdicts, responses, the pool's own cost and overload; compare with naive code and other batchers.

    Others are measured where they are installed (batched, ray, litserve) and skipped with the reason where not. Costs
    are processor time beside the machine's own matmul peak, so that other work on the machine does not count. The full
    run takes hours on one core; the part "grid" is for GPUs.
    """
    from guardrail_plugin.bench.run import Plan
    from guardrail_plugin.bench.run import run as measure
    from guardrail_plugin.dro.writing import require_writable

    require_writable(out / "bench.json")
    console, progress = Console(highlight=False), Console(stderr=True, highlight=False)
    plan = Plan(requests=requests, rounds=rounds, seed=seed)
    if only or contender:
        plan = Plan(
            only=tuple(only or plan.only),
            contenders=tuple(contender or plan.contenders),
            requests=requests,
            rounds=rounds,
            seed=seed,
        )
    text = measure(plan.quick() if quick else plan, out=out, tell=lambda line: progress.print(line, markup=False))
    console.print(text, markup=False, soft_wrap=True)


@commands.command()
@reports_errors
def simulate(
    *,
    doc: Annotated[Path | None, typer.Option("--doc", metavar="FILE", help="Write the capacity document.")] = None,
    replicas: Annotated[list[int] | None, typer.Option("--replicas", min=1, help="Repeatable.")] = None,
    load: Annotated[list[float] | None, typer.Option("--load", min=0.01, help="1 is saturated. Repeatable.")] = None,
    requests: Annotated[int, typer.Option("--requests", min=1, help="Per replica, four times that at least.")] = 250,
    seed: Annotated[int, typer.Option("--seed", min=0)] = 0,
) -> None:
    """Run the pool's own queue in virtual time: waits, losses and fairness of 1, 8 and 64 replicas under load."""
    from guardrail_plugin.bench.paper import FLEETS, LOADS, OVERLOAD, document, fleet_table, simulations
    from guardrail_plugin.dro.writing import require_writable

    if doc is not None:
        require_writable(doc)
    found = simulations(fleets=replicas or FLEETS, loads=load or (*LOADS, OVERLOAD), requests=requests, seed=seed)
    rows, console = list(found), Console(highlight=False)
    if doc is not None:
        doc.write_text(document(rows, requests=requests, seed=seed), encoding="utf-8")
    console.print(fleet_table(rows), markup=False, soft_wrap=True)


def register(app: typer.Typer) -> None:
    """Add ``bench`` to an app."""
    app.add_typer(commands)
