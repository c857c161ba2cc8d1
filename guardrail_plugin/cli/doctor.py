"""``guardrail doctor``: what is here, what is missing, and the command that mends it."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Annotated

import typer
from rich.console import Console
from rich.text import Text

from guardrail_plugin.cli.findings import Finding, hardware, installed
from guardrail_plugin.cli.reporting import reports_errors

_MARKS = {"ok": ("ok", "green"), "missing": ("missing", "bold red"), "note": ("note", "yellow")}


@reports_errors
def doctor(
    *,
    as_json: Annotated[bool, typer.Option("--json", help="The findings as one JSON object.")] = False,
    online: Annotated[bool, typer.Option("--online", help="Also ask the hub; nothing is downloaded.")] = False,
) -> None:
    """Show what is installed, which device and which weights are used, and how to mend what is missing.

    Exit code: 0 the guardian can run, 1 something that it needs is missing.
    """
    findings = diagnose(online=online)
    sound = all(finding.state != "missing" for finding in findings)
    if as_json:
        typer.echo(json.dumps({"ok": sound, "findings": [finding.as_dict() for finding in findings]}, indent=1))
    else:
        _print(Console(highlight=False), findings, sound=sound)
    if not sound:
        raise typer.Exit(1)


def diagnose(*, online: bool = False) -> list[Finding]:
    """Return everything that was found. Loads no model; asks the hub only with ``online``."""
    findings = [*installed(), *hardware()]
    try:
        from guardrail_plugin.cli.weights import weights

        return [*findings, *weights(online=online)]
    except ModuleNotFoundError as error:  # a package of the plain installation, named among the findings
        return [*findings, Finding("Weights", "guardian", "missing", f"unknown: {error.name} is not installed")]


def _print(console: Console, findings: Sequence[Finding], *, sound: bool) -> None:
    width = max(len(finding.name) for finding in findings)
    group = ""
    for finding in findings:
        if finding.group != group:
            group = finding.group
            console.print(Text(group, style="bold"))
        mark, style = _MARKS[finding.state]
        line = Text.assemble("  ", (f"{mark:<8}", style), f"{finding.name:<{width}}  {finding.detail}")
        console.print(line, soft_wrap=True)  # paths stay whole, to be copied
    # One command may mend several findings. What a finding names after its first command are other ways.
    for mend in dict.fromkeys(finding.mend for finding in findings if finding.mend):
        console.print(Text(f"\nTo mend {', '.join(f.name for f in findings if f.mend == mend)}:"), soft_wrap=True)
        for number, command in enumerate(mend):
            console.print(Text(f"  {'or: ' if number else ''}{command}"), soft_wrap=True)
    console.print("\nThe guardian can run." if sound else "\nThe guardian cannot run yet.")
