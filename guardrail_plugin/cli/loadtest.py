"""``guardrail loadtest``: drive a gateway on this machine. ``guardrail dashboard``: what to watch it with."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from guardrail_plugin.cli.reporting import EXIT_HARMFUL, reports_errors
from guardrail_plugin.core.errors import ConfigError
from guardrail_plugin.core.jsonl import read_objects

if TYPE_CHECKING:
    from guardrail_gateway.load_figures import LoadReport

_KEY = "GUARDRAIL_API_KEY"


@reports_errors
def loadtest(
    *,
    url: Annotated[str, typer.Option("--url", metavar="URL", help="The gateway.")] = "http://127.0.0.1:8100",
    seconds: Annotated[float, typer.Option("--seconds", metavar="S", help="How long requests are begun.")] = 10.0,
    concurrency: Annotated[
        int, typer.Option("--concurrency", metavar="N", help="Requests in progress; with --rate, the most of them.")
    ] = 8,
    rate: Annotated[
        float | None, typer.Option("--rate", metavar="N", help="Requests per second. Default: as fast as it answers.")
    ] = None,
    harmful: Annotated[float, typer.Option("--harmful", metavar="SHARE", help="Of the requests, 0..1.")] = 0.1,
    streamed: Annotated[float, typer.Option("--streamed", metavar="SHARE", help="Of the requests, 0..1.")] = 0.5,
    texts: Annotated[
        Path | None,
        typer.Option("--texts", metavar="FILE", help='JSONL rows {"text": ..., "harmful": true|false}.'),
    ] = None,
    model: Annotated[str, typer.Option("--model", metavar="NAME", help="Of the model behind.")] = "embedded",
    max_tokens: Annotated[int, typer.Option("--max-tokens", metavar="N", help="Per answer; 0: no limit.")] = 32,
    seed: Annotated[int, typer.Option("--seed", help="Of the mix.")] = 0,
    allow_remote: Annotated[
        bool, typer.Option("--allow-remote", help="Drive another machine. Ask its owner first.")
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Send a gateway a mix of questions and print throughput, latencies, overloads and errors.

    Latencies count from when a request was due, so that a slow gateway cannot hide behind a waiting client. A bearer
    key comes from GUARDRAIL_API_KEY.

    Exit code: 0; 1 there were errors (overloads are none), or no request got an answer.
    """
    import anyio

    from guardrail_gateway.loadtest import HARMFUL, HARMLESS, Load, run_load

    harmless_texts, harmful_texts = (HARMLESS, HARMFUL) if texts is None else _texts(texts)
    load = Load(
        url=url,
        seconds=seconds,
        concurrency=concurrency,
        rate=rate,
        harmful_share=harmful,
        streamed_share=streamed,
        harmless=harmless_texts,
        harmful=harmful_texts,
        model=model,
        max_tokens=max_tokens or None,
        key=os.environ.get(_KEY) or None,
        seed=seed,
        allow_remote=allow_remote,
    )
    report = anyio.run(run_load, load)
    typer.echo(json.dumps(report.as_dict(), indent=2) if as_json else _table(report))
    if report.count("error") or not report.count("answered") + report.count("blocked"):
        raise typer.Exit(EXIT_HARMFUL)


@reports_errors
def dashboard() -> None:
    """Print the Grafana dashboard for the gateway's metrics: guardrail dashboard > guardrail.json, then import it."""
    from guardrail_gateway import grafana_dashboard

    typer.echo(grafana_dashboard(), nl=False)


def _texts(file: Path) -> tuple[tuple[str, ...], tuple[str, ...]]:
    found: dict[bool, list[str]] = {False: [], True: []}
    for number, row in read_objects(file):
        text, harmful = row.get("text"), row.get("harmful")
        if not isinstance(text, str) or not isinstance(harmful, bool):
            raise ConfigError(f'line {number} of {file} is no {{"text": ..., "harmful": true|false}}')
        found[harmful].append(text)
    return tuple(found[False]), tuple(found[True])


def _table(report: LoadReport) -> str:
    told = report.as_dict()
    lines = [
        f"{told['requests']} requests in {told['seconds']} s: {told['requests_per_s']}/s sent, "
        f"{told['answers_per_s']}/s answered",
        f"answered {told['answered']}, blocked {told['blocked']}, overloaded {told['overloaded']}, "
        f"errors {told['error']}, unsent {told['unsent']}",
    ]
    shares = told["blocked_share"]
    if isinstance(shares, Mapping):
        lines.append("blocked share: " + ", ".join(f"{name} {_number(share)}" for name, share in shares.items()))
    latencies = told["latency_s"]
    for name, figures in latencies.items() if isinstance(latencies, Mapping) else ():
        if figures:
            lines.append(f"{name:>10} s: " + "  ".join(f"{key} {value:.3f}" for key, value in figures.items()))
    for name in ("overloads", "errors"):
        reasons = told[name]
        for reason, count in reasons.items() if isinstance(reasons, Mapping) else ():
            lines.append(f"{name}: {count} x {reason}")
    return "\n".join(lines)


def _number(share: object) -> str:
    return f"{share:.3f}" if isinstance(share, float) else "none sent"


def register(app: typer.Typer) -> None:
    """Add the commands."""
    app.command()(loadtest)
    app.command()(dashboard)
