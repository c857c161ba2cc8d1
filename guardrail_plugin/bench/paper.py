"""The capacity of a pool in tables: devices from their FLOPs, fleets from the simulation. Writes ``CAPACITY.md``."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import asdict
from importlib import resources
from string import Template

from guardrail_plugin.bench.capacity import EMBEDDED, Device, wait_quantile_s
from guardrail_plugin.bench.outcomes import Simulated
from guardrail_plugin.bench.simulate import saturated_rate, simulate
from guardrail_plugin.bench.traffic import Traffic
from guardrail_plugin.bench.virtual import Speed

FLEETS = (1, 8, 64)
LOADS = (0.5, 0.7, 0.8, 0.9, 0.95)
OVERLOAD = 3.0
PREFIX_TOKENS, TAIL_TOKENS = 65, 29.4

# Peaks: dense matrix products, bfloat16 on GPUs (their makers' data sheets), float32 on the CPU (measured).
DEVICES = (
    Device(name="one core, EPYC (AVX2)", peak_flops=76e9, fraction=0.87, measured=True),
    Device(name="NVIDIA L4", peak_flops=121e12, fraction=0.3, measured=False),
    Device(name="NVIDIA A100", peak_flops=312e12, fraction=0.3, measured=False),
    Device(name="NVIDIA H100 / H200", peak_flops=989e12, fraction=0.3, measured=False),
)


def simulations(
    *, fleets: Sequence[int] = FLEETS, loads: Sequence[float] = (*LOADS, OVERLOAD), requests: int = 1000, seed: int = 0
) -> Iterator[Simulated]:
    """Yield one simulation per fleet and load, of ``requests`` per replica, at least four times that many."""
    for replicas in fleets:
        for load in loads:
            yield simulate(replicas=replicas, load=load, requests=requests * max(replicas, 4), seed=seed)


def device_table() -> str:
    """Return verdicts per second of each device, from its FLOPs."""
    lines = [
        "| device | peak, TFLOP/s | fraction reached | verdicts/s, template kept | verdicts/s, nothing kept |",
        "|---|---|---|---|---|",
    ]
    for device in DEVICES:
        kept = device.verdicts_per_s(EMBEDDED, tokens=round(TAIL_TOKENS), kept=PREFIX_TOKENS)
        whole = device.verdicts_per_s(EMBEDDED, tokens=round(PREFIX_TOKENS + TAIL_TOKENS))
        fraction = f"{device.fraction:.2f} ({'measured' if device.measured else 'assumed'})"
        lines.append(f"| {device.name} | {device.peak_flops / 1e12:g} | {fraction} | {kept:,.0f} | {whole:,.0f} |")
    return "\n".join(lines)


def fleet_table(rows: Sequence[Simulated]) -> str:
    """Return one line per simulation."""
    titles = (
        "replicas, load, asked/s, busy, wait p50 / p99 s, formula p99 s, latency p99 s, response p50 s, rejected, "
        "expired, failed, replicas lost, wait p99 heavy / light app s, lost heavy / light app"
    ).split(", ")
    lines = [f"| {' | '.join(titles)} |", "|---" * len(titles) + "|"]
    for row in rows:
        service_s = row.load * row.replicas / row.rate
        formula = wait_quantile_s(0.99, row.replicas, row.load, service_s=service_s) if row.load < 1 else None
        shares = " | ".join(f"{n / row.requests:.2%}" for n in (row.rejected, row.expired, row.failed))
        lines.append(
            f"| {row.replicas} | {row.load:g} | {row.rate:.1f} | {row.busy:.0%} "
            f"| {row.wait_p50_s:.2f} / {row.wait_p99_s:.2f} | {'∞' if formula is None else f'{formula:.2f}'} "
            f"| {row.latency_p99_s:.2f} | {row.response_p50_s:.0f} | {shares} | {row.deaths} "
            f"| {row.heavy_wait_p99_s:.2f} / {row.light_wait_p99_s:.2f} "
            f"| {row.heavy_lost:.1%} / {row.light_lost:.1%} |"
        )
    return "\n".join(lines)


def document(rows: Sequence[Simulated], *, requests: int, seed: int) -> str:
    """Return the whole text of ``CAPACITY.md``."""
    speed, traffic = Speed(), Traffic()
    template = Template(resources.files("guardrail_plugin.bench").joinpath("capacity.md.in").read_text("utf-8"))
    return template.substitute(
        asdict(traffic)
        | asdict(speed)
        | {
            "devices": device_table(),
            "fleets": fleet_table(rows),
            "rate": f"{saturated_rate(speed=speed, traffic=traffic):.1f}",
            "gflop": f"{EMBEDDED.verdict_flops(tokens=round(TAIL_TOKENS), kept=PREFIX_TOKENS) / 1e9:.1f}",
            "kept_mb": f"{EMBEDDED.kept_bytes(round(PREFIX_TOKENS + TAIL_TOKENS)) / 1e6:.1f}",
            "requests": requests,
            "overload": OVERLOAD,
            "seed": seed,
            "harmful_share": f"{traffic.harmful:.0%}",
            "poison_share": f"{traffic.poison:.2%}",
            "heavy_share": f"{traffic.heavy:.0%}",
        }
    )
