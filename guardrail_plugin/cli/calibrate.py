"""``guardrail calibrate``: fit thresholds to one's own labelled traffic and write a policy."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console

from guardrail_plugin.cli.evaluate import GuardianOrBaselineOption, TrainOption, open_guardian
from guardrail_plugin.cli.options import DeviceOption, DtypeOption, rail_named
from guardrail_plugin.cli.reporting import reports_errors
from guardrail_plugin.core.errors import ConfigError

if TYPE_CHECKING:
    from guardrail_plugin.evals.calibrate import Fit


@reports_errors
def calibrate(
    *,
    data: Annotated[
        list[str], typer.Option("--data", metavar="FILE[:RAIL]", help="Labelled JSONL of your own traffic; repeatable.")
    ],
    max_fpr: Annotated[
        float, typer.Option("--max-fpr", metavar="SHARE", help="Most harmless texts that may be flagged, e.g. 0.01.")
    ] = 0.01,
    rail: Annotated[
        str | None, typer.Option("--rail", metavar="RAIL", help="Rail of the files that name none themselves.")
    ] = None,
    certify: Annotated[
        bool, typer.Option("--certify", help="Keep the 95 % upper bound of the rate at --max-fpr, not only the rate.")
    ] = False,
    out: Annotated[
        Path | None, typer.Option("--out", metavar="FILE", help="Policy file to write. Default: print it.")
    ] = None,
    force: Annotated[bool, typer.Option("--force", help="Overwrite --out.")] = False,
    guardian: GuardianOrBaselineOption = None,
    train: TrainOption = None,
    device: DeviceOption = None,
    dtype: DtypeOption = "auto",
    quiet: Annotated[bool, typer.Option("--quiet", help="No progress bars.")] = False,
) -> None:
    """Find the threshold per rail at which at most --max-fpr of your harmless texts are flagged.

    Needs at least 3 / --max-fpr distinct harmless rows per rail: fewer cannot support the claim. Prints what the
    threshold would have done to your rows, with honest bounds, and a policy that guard(policy=...) and --policy read.
    """
    if out is not None and out.exists() and not force:
        raise ConfigError(f"{out} exists; replace it with --force")
    from guardrail_plugin.evals.calibrate import calibrate as fit
    from guardrail_plugin.evals.dataset import EvalFile

    default = None if rail is None else rail_named(rail)
    files = [EvalFile.parse(file, rail=default) for file in data]
    with open_guardian(guardian, train=train or [], measured=files, device=device, dtype=dtype, quiet=quiet) as (
        judge,
        _,
    ):
        found = fit(judge, files, max_fpr=max_fpr, certify=certify, quiet=quiet)
    _tell(Console(stderr=True, highlight=False, soft_wrap=True), found)
    if out is None:
        typer.echo(found.toml(), nl=False)
        return
    from guardrail_plugin.evals.report import write_text

    try:
        write_text(out, found.toml())
    except ConfigError:
        typer.echo(found.toml(), nl=False)  # scoring may have taken hours
        raise
    Console(highlight=False).print(f"Policy: {out}", soft_wrap=True, markup=False)


def register(app: typer.Typer) -> None:
    """Add ``calibrate`` to an app."""
    app.command()(calibrate)


def _tell(console: Console, found: Fit) -> None:
    from guardrail_plugin.evals.calibrate import describe

    aim = "the upper bound of the false-positive rate" if found.certified else "the false-positive rate"
    console.print(f"Guardian {found.guardian}: {aim} is kept at {100 * found.max_fpr:g} %.", markup=False)
    for one in found.rails:
        console.print(f"{one.rail} rail: act at risk {one.threshold:.4f}", markup=False)
        for line in describe(one):
            console.print(f"  {line}", markup=False)
        alarms, hits = one.before
        console.print(f"  at its own threshold: {alarms} harmless flagged, {hits} harmful found", markup=False)
        if one.duplicates:
            console.print(f"  {one.duplicates} repeated texts were counted once", markup=False)
        if one.failed:
            console.print(f"  {one.failed} texts got no verdict and count as flagged", markup=False)
