"""The benchmark on a tiny random model: every part runs, contenders agree, figures follow from cells."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import pytest

pytest.importorskip("torch")

from typer.testing import CliRunner

from guardrail_plugin.bench import contenders as bench_contenders
from guardrail_plugin.bench import extras, grid
from guardrail_plugin.bench import run as bench_run
from guardrail_plugin.bench.cells import (
    CONTENDERS,
    GENERIC,
    LLAMA_CPP,
    NAIVE,
    NAIVE_BF16,
    PACKED,
    PACKED_BF16,
    Cell,
    Skip,
    verdict_cells,
)
from guardrail_plugin.bench.contenders import Bench, Contender, SkippedError
from guardrail_plugin.bench.figures import GOALS, cell_table, goal_table, lines_of, verdict_figures
from guardrail_plugin.bench.load import Ask, make_load, tree_cpu_s
from guardrail_plugin.bench.run import Plan
from guardrail_plugin.cli.bench import commands
from guardrail_plugin.core.errors import ConfigError
from guardrail_plugin.models.load import load_causal_lm

OURS = tuple(contender for contender in CONTENDERS if contender.name in (NAIVE, GENERIC, PACKED))


@pytest.fixture(scope="module")
def bench(tiny_base: Path) -> Bench:
    from transformers import AutoTokenizer

    model = load_causal_lm(tiny_base)
    return Bench(tiny_base, model, make_load(AutoTokenizer.from_pretrained(tiny_base), model, requests=10, seed=0))


def cell(contender: str, at: int, fraction: float, *, number: int = 0, answers: tuple[int, ...] = (0, 1)) -> Cell:
    return Cell(
        contender=contender,
        concurrency=at,
        round=number,
        n=len(answers),
        cpu_ms=10.0 / fraction,
        rps=1.0,
        p50_ms=1.0,
        p95_ms=2.0,
        peak_gflops=50.0,
        fraction=fraction,
        answers=answers,
    )


def test_contenders_alternate_and_give_the_same_verdicts(bench: Bench) -> None:
    found = list(verdict_cells(bench, OURS, rounds=2, concurrencies=(1, 4)))
    assert all(isinstance(one, Cell) for one in found)
    cells = [one for one in found if isinstance(one, Cell)]
    order = [(c.round, c.contender, c.concurrency) for c in cells]
    one_round = [(NAIVE, 1), (GENERIC, 1), (GENERIC, 4), (PACKED, 1), (PACKED, 4)]
    assert order == [(number, *at) for number in (0, 1) for at in one_round]
    assert len({c.answers for c in cells}) == 1
    assert verdict_figures(cells)["verdicts that differ from naive"] == 0
    assert all(c.peak_gflops > 0 and c.rps > 0 for c in cells)


def test_who_cannot_run_is_skipped_once_with_the_reason(bench: Bench) -> None:
    asked: list[str] = []

    @contextmanager
    def absent(_: Bench) -> Iterator[Ask]:
        asked.append("opened")
        raise SkippedError("it is not installed")
        yield

    found = list(verdict_cells(bench, [Contender("absent", absent), OURS[0]], rounds=3, concurrencies=(1,)))
    assert found[0] == Skip("absent", "it is not installed")
    assert [type(one) for one in found[1:]] == [Cell] * 3
    assert asked == ["opened"]


HALVES = tuple(contender for contender in CONTENDERS if contender.name in (NAIVE_BF16, PACKED_BF16))


def test_the_pair_in_bfloat16_runs_on_weights_of_its_own(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bench_contenders, "cpu_multiplies_bfloat16", lambda: True)
    formats = [str(one.bench_of(bench).model.dtype) for one in (OURS[0], *HALVES)]
    assert formats == ["torch.float32", "torch.bfloat16", "torch.bfloat16"]
    found = [one for one in verdict_cells(bench, HALVES, rounds=1, concurrencies=(4,)) if isinstance(one, Cell)]
    assert [(c.contender, c.concurrency) for c in found] == [(NAIVE_BF16, 1), (PACKED_BF16, 4)]


def test_the_pair_is_skipped_where_the_cpu_has_no_bfloat16(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bench_contenders, "cpu_multiplies_bfloat16", lambda: False)
    found = list(verdict_cells(bench, HALVES, rounds=2, concurrencies=(1,)))
    assert found == [Skip(one.name, "this CPU has no instructions for bfloat16") for one in HALVES]


def test_formats_are_compared_by_processor_time_and_rounding_breaks_no_promise() -> None:
    cells = [cell(NAIVE, 1, 0.2), cell(PACKED, 8, 0.5)]
    cells += [cell(NAIVE_BF16, 1, 0.4, answers=(1, 1)), cell(PACKED_BF16, 8, 1.0, answers=(1, 1))]
    figures = verdict_figures(cells)
    assert figures["verdicts that differ from naive"] == 0
    assert figures["naive, processor time of float32 / bfloat16"] == pytest.approx(2.0)
    assert figures["packed, processor time of float32 / bfloat16, 8 concurrent"] == pytest.approx(2.0)
    assert figures["packed vs naive, both bfloat16, 8 concurrent"] == pytest.approx(2.5)
    assert figures["packed engine, bfloat16: share of verdicts unlike naive transformers"] == pytest.approx(0.5)
    assert figures["packed engine, bfloat16: share of verdicts unlike naive transformers, bfloat16"] == 0


def test_batched_runs_around_the_same_engine(bench: Bench) -> None:
    pytest.importorskip("batched")
    peer = next(contender for contender in CONTENDERS if contender.name == "batched")
    found = list(verdict_cells(bench, [OURS[0], peer], rounds=1, concurrencies=(4,)))
    assert len({one.answers for one in found if isinstance(one, Cell)}) == 1


def test_llama_cpp_answers_with_labels_from_its_own_weights(bench: Bench) -> None:
    pytest.importorskip("xllamacpp")
    pytest.importorskip("httpx")
    peer = next(contender for contender in CONTENDERS if contender.name == LLAMA_CPP)
    (found,) = verdict_cells(bench, [peer], rounds=1, concurrencies=(4,))
    if isinstance(found, Skip):
        pytest.skip(found.reason)
    assert set(found.answers) <= set(range(len(bench.load.label_ids)))


def test_four_bits_may_judge_otherwise() -> None:
    cells = [cell(NAIVE, 1, 0.2), cell(PACKED, 8, 0.6), cell(LLAMA_CPP, 8, 0.3, answers=(1, 1))]
    figures = verdict_figures(cells)
    assert figures["verdicts that differ from naive"] == 0
    assert figures["packed vs llama.cpp, 4 bits, 8 concurrent"] == pytest.approx(2.0)
    assert figures["llama.cpp, 4 bits: share of verdicts unlike naive transformers"] == pytest.approx(0.5)


def test_ratios_are_of_medians_over_rounds() -> None:
    cells = [cell(NAIVE, 1, 0.2, number=n) for n in range(3)]
    cells += [cell(PACKED, 64, fraction, number=n) for n, fraction in enumerate((0.8, 0.1, 0.9))]
    cells += [cell(GENERIC, 64, 0.5), cell("batched", 64, 0.4, answers=(1, 1))]
    figures = verdict_figures(cells)
    assert figures["packed vs naive, 64 concurrent"] == pytest.approx(4.0)
    assert figures["packed, fraction of the peak, 64 concurrent"] == pytest.approx(0.8)
    assert figures["generic vs batched, 64 concurrent"] == pytest.approx(1.25)
    assert figures["verdicts that differ from naive"] == 1
    assert {line.rounds for line in lines_of(cells)} == {1, 3}
    assert "| packed vs naive, 64 concurrent | 4.00 | >= 5 | missed |" in goal_table(figures)
    assert cell_table(cells).count("\n") == 1 + 4


def test_the_goals_are_figures_that_exist() -> None:
    names = (NAIVE, GENERIC, PACKED, LLAMA_CPP, "batched", "LitServe", "Ray @serve.batch")
    cells = [cell(name, at, 0.5) for name in names for at in (1, 8, 64)]
    others = {name for name in GOALS if name.startswith(("responses", "verdict p95", "pool adds", "overload"))}
    assert set(GOALS) - others <= set(verdict_figures(cells))


def test_responses_and_verdicts_beside_them(bench: Bench) -> None:
    rates = extras.responses(bench, rows=3, tokens=4, rounds=1)
    assert set(rates) == {"generate", "kept"}
    found = asyncio.run(extras.beside_responses(bench, verdicts=10, rows=2, tokens=4, rounds=1))
    assert min(found.values()) > 0


def test_overload_leaves_nobody_without_an_answer(bench: Bench) -> None:
    found = asyncio.run(extras.overload(bench, rate=300.0, seconds=0.5, timeout_s=5.0))
    assert found["answered"] + found["refused"] + found["expired"] == found["asked"] > 20


def test_the_pool_itself_costs_little() -> None:
    assert 0 < extras.pool_cost_ms(calls=50)["p50"] < 50


def test_the_grid_covers_lengths_and_batches(bench: Bench) -> None:
    found = list(grid.points(bench.model, lengths=(8, 16), batches=(1, 2), repeats=1))
    assert [(point.length, point.batch) for point in found] == [(8, 1), (8, 2), (16, 1), (16, 2)]
    assert all(point.rps > 0 and point.plain_rps > 0 and point.fraction > 0 for point in found)


def test_the_tree_includes_this_process() -> None:
    before = tree_cpu_s()
    sum(range(3_000_000))
    assert tree_cpu_s() >= before > 0


def test_a_run_writes_record_table_and_plot(bench: Bench, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("matplotlib")
    monkeypatch.setattr(bench_run, "_open", lambda plan: bench)
    plan = replace(Plan(only=("verdicts", "pool"), contenders=(NAIVE, PACKED)).quick(), requests=10)
    text = bench_run.run(plan, out=tmp_path)
    record = json.loads((tmp_path / "bench.json").read_text())
    assert {cell["contender"] for cell in record["cells"]} == {NAIVE, PACKED}
    assert "answers" not in record["cells"][0]
    assert record["figures"].keys() >= {"packed vs naive, 8 concurrent", "pool adds at 1 concurrent, p50, ms"}
    assert (tmp_path / "bench.md").read_text() == text
    assert (tmp_path / "bench.png").read_bytes().startswith(b"\x89PNG")


@pytest.mark.parametrize("wrong", [{"only": ("verdict",)}, {"contenders": ("packed",)}])
def test_a_wrong_word_is_told_before_anything_is_measured(wrong: dict[str, tuple[str, ...]]) -> None:
    with pytest.raises(ConfigError, match="is none of"):
        Plan(**wrong)  # type: ignore[arg-type]


def test_the_command_simulates(tmp_path: Path) -> None:
    doc = tmp_path / "CAPACITY.md"
    argv = ["simulate", "--replicas", "2", "--load", "0.5", "--requests", "20", "--doc", str(doc)]
    result = CliRunner().invoke(commands, argv)
    assert result.exit_code == 0, result.output
    assert "| 2 | 0.5 |" in result.output
    assert "| 2 | 0.5 |" in doc.read_text()
