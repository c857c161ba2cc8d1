"""Options that several commands share, and the words that they accept."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, TypeAlias

import typer

from guardrail_plugin.core.errors import did_you_mean
from guardrail_plugin.core.verdict import RAILS, Rail

GuardianOption: TypeAlias = Annotated[
    str | None,
    typer.Option(
        "--guardian",
        envvar="GUARDRAIL_GUARDIAN",
        metavar="PATH|HUB",
        help="Folder, hub id or openai: address of a guardian, with FAMILY@ in front where it is not recognised (see: "
        "guardrail models), or a TOML file that describes one. Default: the embedded one.",
    ),
]
PolicyOption: TypeAlias = Annotated[
    Path | None,
    typer.Option(
        "--policy",
        envvar="GUARDRAIL_POLICY",
        metavar="FILE",
        help="Policy in TOML; it decides what counts as harmful. Default: the guardian's thresholds.",
    ),
]
DeviceOption: TypeAlias = Annotated[
    str | None, typer.Option("--device", metavar="NAME", help="cpu, cuda:0, mps. Default: the best there is.")
]
DtypeOption: TypeAlias = Annotated[
    str,
    typer.Option(
        "--dtype",
        metavar="NAME",
        help="Number format of the weights: auto, float32, bfloat16 or float16. On a CPU with instructions for it "
        "bfloat16 is about three times as fast: guardrail doctor tells.",
    ),
]


def rail_named(name: str) -> Rail:
    """Return the rail of this name.

    Raises:
        typer.BadParameter: there is none.
    """
    for rail in RAILS:
        if rail == name.replace("-", "_"):
            return rail
    raise typer.BadParameter(f"{name!r} is none of {', '.join(RAILS)}{did_you_mean(name, RAILS)}")
