"""A checkpoint is resumed by its own run alone."""

from __future__ import annotations

import io
import logging
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

torch = pytest.importorskip("torch")

from guardrail_plugin.assembly import EMBEDDED_GUARDIAN  # noqa: E402
from guardrail_plugin.cli.recipes import assemble  # noqa: E402
from guardrail_plugin.core.errors import ConfigError  # noqa: E402
from guardrail_plugin.guardian.manifest import Manifest  # noqa: E402
from guardrail_plugin.training import loop  # noqa: E402
from guardrail_plugin.training.config import Source, TrainConfig  # noqa: E402
from guardrail_plugin.training.mix import Pools  # noqa: E402
from guardrail_plugin.training.rows import Example  # noqa: E402

ROWS = (Example(text="a secret text \ud800", harmful=True, hazard="S2"), Example(text="another", harmful=False))


def pools(rows: tuple[Example, ...] = ROWS, **fields: Any) -> Pools:
    return Pools(train=((Source(path="x.jsonl"), rows),), validation=(), responses={"S2": (("t", "No."),)}, **fields)


def run(
    *, seed: int = 0, drawn: Pools | None = None, start: float = 1.0, world: int = 1, total: int = 9, rank: int = 0
) -> Any:
    network = torch.nn.Linear(1, 1)
    parts: tuple[Any, ...] = (None, None, None, network, drawn or pools(), torch.optim.AdamW(network.parameters()))
    made = loop._Run(TrainConfig(seed=seed), *parts)
    made.rank, made.world, made.began = rank, world, {"lora": torch.full((2, 2), start)}
    made.identify(total)
    return made


OTHERS: dict[str, dict[str, Any]] = {
    "recipe": {"seed": 1},
    "text": {"drawn": pools((replace(ROWS[0], text="changed"), ROWS[1]))},
    "label": {"drawn": pools((replace(ROWS[0], harmful=False), ROWS[1]))},
    "order": {"drawn": pools(ROWS[::-1])},
    "held out": {"drawn": replace(pools(), validation=ROWS[:1])},
    "responses": {"drawn": replace(pools(), responses={})},
    "start weights": {"start": 2.0},
    "processes": {"world": 2},
    "steps": {"total": 10},
}


def test_the_same_run_goes_on(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    first, again = run(), run()
    first.checkpoint(tmp_path / "c", 5)
    assert again.resume(tmp_path / "c") == 5
    assert torch.equal(again.network.weight, first.network.weight)
    assert caplog.records == []


@pytest.mark.parametrize("what", OTHERS)
def test_another_run_says_that_it_begins_anew(tmp_path: Path, caplog: pytest.LogCaptureFixture, what: str) -> None:
    run().checkpoint(tmp_path / "c", 5)
    other = run(**OTHERS[what])
    before = other.network.weight.clone()
    with caplog.at_level(logging.WARNING):
        assert other.resume(tmp_path / "c") == 0
    assert torch.equal(other.network.weight, before)
    [record] = caplog.records
    assert f"{tmp_path / 'c'} is ignored" in record.getMessage()
    assert "\n" not in record.getMessage()
    assert "text" not in record.getMessage()


def test_one_process_speaks_for_all(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    run().checkpoint(tmp_path / "c", 5)
    assert run(rank=1, world=2).resume(tmp_path / "c") == 0
    assert caplog.records == []


def test_a_redirected_stderr_gets_no_bar(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    class Nothing:
        def __init__(self) -> None:
            self.pools, self.network, self.located, self.tokenizer = pools(), None, None, None

        def __getattr__(self, name: str) -> Any:
            return lambda *_, **__: 0

        def precision(self) -> Any:
            return torch.no_grad()

        def steps(self, *_: int) -> Any:
            return iter([])

        def total_steps(self) -> int:
            return 3

    stderr = io.StringIO()
    monkeypatch.setattr("sys.stderr", stderr)
    monkeypatch.setattr(loop._Run, "prepare", lambda *_, **__: Nothing())
    monkeypatch.setattr(loop, "validate", lambda *_, **__: None)
    monkeypatch.setattr(loop, "save_artefact", lambda *_, **__: None)
    loop.train(TrainConfig(), data_folders=[], out=tmp_path, device="cpu")
    assert stderr.getvalue() == ""


def test_steps_go_on_where_they_were_though_epochs_differ_in_length(monkeypatch: pytest.MonkeyPatch) -> None:
    lengths = (4, 2, 3, 5, 1)  # rows are drawn anew each epoch, so that the number of batches changes
    monkeypatch.setattr(loop._Run, "epoch", lambda _, number: [f"{number}.{i}" for i in range(lengths[number % 5])])
    for rank, world in ((0, 1), (0, 2), (1, 2)):
        made = run(rank=rank, world=world)
        made.per_epoch = lengths[0] // world
        whole = list(made.steps(0, 16))
        assert [step for step, _ in whole] == list(range(16))
        for done in range(16):
            assert list(made.steps(done, 16)) == whole[done:]


def test_a_run_holds_out_no_more_than_its_start_did(tmp_path: Path) -> None:
    """More would be rows that the start has learnt from."""
    held = Manifest.read(EMBEDDED_GUARDIAN).training["validation_fraction"]
    loop._refuse_seen(EMBEDDED_GUARDIAN, held)
    with pytest.raises(ConfigError, match=f"set {held} or less"):
        loop._refuse_seen(EMBEDDED_GUARDIAN, held + 0.01)
    mine = tmp_path / "mine.jsonl"
    mine.write_text('{"text": "Which boats float?", "harmful": false}\n')
    tune, _ = assemble(None, [mine])
    assert tune.validation_fraction <= held
