"""``guardrail serve``: the OpenAI-compatible gateway. ``guardrail audit``: check the record that it keeps."""

from __future__ import annotations

import logging
import os
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from guardrail_plugin.cli.options import DeviceOption, DtypeOption, GuardianOption, PolicyOption
from guardrail_plugin.cli.reporting import EXIT_HARMFUL, reports_errors
from guardrail_plugin.core.dtype import dtype_named
from guardrail_plugin.core.errors import ConfigError

if TYPE_CHECKING:
    from guardrail_gateway import ApiKey
    from guardrail_plugin.flow import WindowSetting
    from guardrail_plugin.observe import Observer

_AUDIT_KEY = "GUARDRAIL_AUDIT_KEY"


@reports_errors
def serve(
    *,
    upstream: Annotated[
        str | None,
        typer.Option(
            "--upstream",
            envvar="GUARDRAIL_UPSTREAM",
            metavar="URL",
            help="Base URL of an OpenAI-compatible API, /v1 included. Default: the embedded model answers.",
        ),
    ] = None,
    policy: PolicyOption = None,
    guardian: GuardianOption = None,
    device: DeviceOption = None,
    dtype: DtypeOption = "auto",
    host: Annotated[
        str, typer.Option("--host", metavar="HOST", help="Others than loopback need --keys.")
    ] = "127.0.0.1",
    port: Annotated[int, typer.Option("--port", metavar="PORT")] = 8100,
    keys: Annotated[
        Path | None,
        typer.Option("--keys", envvar="GUARDRAIL_KEYS_FILE", metavar="FILE", help="Who may call: name:key per line."),
    ] = None,
    rails: Annotated[
        str, typer.Option("--rails", metavar="LIST", help="Where text is judged.")
    ] = "input,output,tool_output",
    history: Annotated[
        str, typer.Option("--history", metavar="SCOPE", help="Earlier turns, as clients send them: all or latest.")
    ] = "all",
    trust_system: Annotated[
        bool, typer.Option("--trust-system", help="System messages are the operator's own: do not judge them.")
    ] = False,
    allow_uncheckable: Annotated[
        bool, typer.Option("--allow-uncheckable", help="Let images and files pass, which no rail can read.")
    ] = False,
    window: Annotated[
        str, typer.Option("--window", metavar="SIZE", help="Streams: sentence, answer, or a number of words.")
    ] = "sentence",
    requests_per_minute: Annotated[
        int | None, typer.Option("--requests-per-minute", min=1, metavar="N", help="Per key.")
    ] = None,
    max_concurrent: Annotated[
        int, typer.Option("--max-concurrent", min=1, metavar="N", help="Requests in progress; more are refused.")
    ] = 512,
    cors: Annotated[
        list[str] | None, typer.Option("--cors", metavar="ORIGIN", help="Origin whose pages may call. Default: none.")
    ] = None,
    allowed_host: Annotated[
        list[str] | None,
        typer.Option("--allowed-host", metavar="NAME", help="Host name to answer to; loopback's own always."),
    ] = None,
    audit: Annotated[
        Path | None, typer.Option("--audit", metavar="FILE", help="Append every decision there: hashes, no text.")
    ] = None,
    audit_text: Annotated[bool, typer.Option("--audit-text", help="Write the judged text there, too.")] = False,
    otel: Annotated[bool, typer.Option("--otel", help="OpenTelemetry, to the globally set providers.")] = False,
    playground: Annotated[bool, typer.Option("--playground/--no-playground", help="The page at /playground.")] = True,
    playground_held_text: Annotated[
        bool, typer.Option("--playground-held-text", help="Developers only: the page shows blocked text, too.")
    ] = False,
) -> None:
    """Serve an OpenAI-compatible API whose questions, answers and tool calls pass the rails. Stop it with Ctrl-C.

    Endpoints: /v1/chat/completions, /v1/responses, /v1/moderations, /v1/models, /healthz, /readyz, /metrics. The
    policy file is watched. /playground is a page to try it on. Logs are JSON lines on stderr.

    From the environment: GUARDRAIL_UPSTREAM_KEY, the bearer key for the upstream (without it and without --keys the
    client's own is passed on); GUARDRAIL_AUDIT_KEY, which makes the audit log a chain of HMACs.
    """
    from guardrail_gateway import GatewaySettings, Playground, history_named, rails_named
    from guardrail_gateway import serve as run
    from guardrail_plugin.models.remote import shown_address
    from guardrail_plugin.observe import LogObserver, log_json

    settings = GatewaySettings(
        upstream=upstream,
        upstream_key=os.environ.get("GUARDRAIL_UPSTREAM_KEY", "").strip() or None,
        keys=_keys(keys),
        rails=rails_named(rails.split(",")),
        history=history_named(history),
        trust_system=trust_system,
        on_uncheckable="allow" if allow_uncheckable else "block",
        window=_window(window),
        host=host,
        port=port,
        requests_per_minute=requests_per_minute,
        max_concurrent=max_concurrent,
        cors_origins=tuple(cors or ()),
        allowed_hosts=tuple(allowed_host or ()),
    )
    log_json(level=logging.INFO)
    requests = logging.getLogger("guardrail_gateway.requests")
    observers = [LogObserver(logger=requests), *_observers(audit, audit_text=audit_text, otel=otel)]
    behind = shown_address(upstream) if upstream else "the embedded model"
    typer.echo(f"guardrail gateway: http://{host}:{port}/v1 -> {behind}", err=True)
    page = Playground(show_held=playground_held_text) if playground else None
    run(
        settings,
        guardian=guardian,
        policy=policy,
        devices=None if device is None else [device],
        dtype=dtype_named(dtype),
        observers=observers if page is None else [*observers, page],
        pages=() if page is None else page.pages,
    )


@reports_errors
def audit(*, file: Annotated[Path, typer.Argument(metavar="FILE", help="The log that --audit wrote.")]) -> None:
    """Check that no line of an audit log, or of its full files, was changed, dropped or moved.

    The key comes from GUARDRAIL_AUDIT_KEY. Lines cut off at the end cannot be seen: compare the last number.

    Exit code: 0 the chain holds, 1 it is broken.
    """
    from guardrail_plugin.observe import verify

    report = verify(file, key=_audit_key())
    typer.echo(f"{report.lines} lines in {report.files} files, numbers {report.first} to {report.last}")
    if report.broken is not None:
        typer.echo(f"broken: {report.broken}", err=True)
        raise typer.Exit(EXIT_HARMFUL)
    typer.echo("the chain holds")


def _keys(file: Path | None) -> tuple[ApiKey, ...]:
    from guardrail_gateway import read_keys

    if file is None:
        return ()
    try:
        keys = read_keys(file.read_text(encoding="utf-8-sig").splitlines())
    except OSError as error:
        raise ConfigError(f"cannot read {file}: {error.strerror}") from None
    except UnicodeDecodeError:
        raise ConfigError(f"{file} is not UTF-8") from None
    if not keys:
        raise ConfigError(f"{file} holds no key")
    return keys


def _window(word: str) -> WindowSetting:
    if word.isdecimal():
        return int(word)
    if word == "sentence":
        return "sentence"
    if word == "answer":
        return "answer"
    raise ConfigError(f"--window must be sentence, answer or a number of words, got {word!r}")


def _observers(audit: Path | None, *, audit_text: bool, otel: bool) -> list[Observer]:
    found: list[Observer] = []
    if audit is not None:
        from guardrail_plugin.observe import AuditLog

        found.append(AuditLog(audit, key=_audit_key(), with_text=audit_text))
    elif audit_text:
        raise ConfigError("--audit-text needs --audit FILE")
    if otel:
        from guardrail_plugin.observe.telemetry import Telemetry

        found.append(Telemetry())
    return found


def _audit_key() -> bytes | None:
    key = os.environ.get(_AUDIT_KEY)
    return key.encode() if key else None


def register(app: typer.Typer) -> None:
    """Add the commands."""
    app.command()(serve)
    app.command()(audit)
