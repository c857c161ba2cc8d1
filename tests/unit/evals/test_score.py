"""Scoring: resumable, without text on disk, closed on failure, loud when the guardian is broken."""

from __future__ import annotations

import io
import json
from dataclasses import replace
from pathlib import Path

import pytest

from guardrail_plugin.core.errors import ConfigError, GuardianError, InferenceError, InputError, PoolClosed
from guardrail_plugin.core.policy import Policy
from guardrail_plugin.evals.dataset import EvalFile, load
from guardrail_plugin.evals.score import decide, read_scores, score
from guardrail_plugin.evals.settings import judging_settings, responding_settings
from guardrail_plugin.evals.store import ScoreStore
from guardrail_plugin.guardian.guardian import Guardian
from guardrail_plugin.guardian.manifest import Calibration
from guardrail_plugin.testing import ScriptedGuardian, verdict


@pytest.fixture
def data(write_jsonl):
    def make(count=5, name="set.jsonl"):
        rows = [{"id": f"r{i}", "text": f"canary {i} risk={i / 10}", "harmful": i > 2} for i in range(count)]
        return load(EvalFile(write_jsonl(name, rows)))

    return make


def test_every_row_gets_its_score_in_the_order_of_the_file(data, reads_risk):
    scores = score(data(10), reads_risk, quiet=True)

    assert [one.id for one in scores] == [f"r{i}" for i in range(10)]
    assert [one.risk for one in scores] == [i / 10 for i in range(10)]
    assert [one.harmful for one in scores] == [i >= 5 for i in range(10)]
    assert [one.label for one in scores] == [i > 2 for i in range(10)]


def test_the_scores_file_holds_numbers_and_no_text(data, reads_risk, tmp_path):
    score(data(), reads_risk, folder=tmp_path / "scores", quiet=True)

    written = (tmp_path / "scores" / "set.jsonl").read_text(encoding="utf-8")
    assert "canary" not in written
    first = json.loads(written.splitlines()[0])
    assert {"id", "risk", "hazard", "hazards", "harmful", "seconds", "windows"} <= first.keys()


def test_a_second_run_asks_nothing(data, reads_risk, tmp_path):
    before = score(data(), reads_risk, folder=tmp_path / "scores", quiet=True)
    asked = len(reads_risk.checks)

    after = score(data(), reads_risk, folder=tmp_path / "scores", quiet=True)

    assert after == before
    assert len(reads_risk.checks) == asked == 5


def test_a_run_that_was_cut_short_asks_only_what_is_missing(data, reads_risk, tmp_path):
    before = score(data(), reads_risk, folder=tmp_path / "scores", quiet=True)
    file = tmp_path / "scores" / "set.jsonl"
    lines = file.read_text(encoding="utf-8").splitlines(keepends=True)
    file.write_text("".join(lines[:3]) + lines[3][:20], encoding="utf-8")  # killed in the middle of a line

    again = score(data(), reads_risk, folder=tmp_path / "scores", quiet=True)

    assert [one.risk for one in again] == [one.risk for one in before]
    assert len(reads_risk.checks) == 5 + 2
    assert len(read_scores(tmp_path / "scores", "set")) == 5


def test_another_guardian_or_another_file_starts_anew(data, reads_risk, write_jsonl, tmp_path):
    folder = tmp_path / "scores"
    score(data(), reads_risk, folder=folder, quiet=True)
    other = ScriptedGuardian(lambda _: verdict(risk=0.25), guardian_id="other")

    assert {one.risk for one in score(data(), other, folder=folder, quiet=True)} == {0.25}
    score(data(6), other, folder=folder, quiet=True)
    assert len(other.checks) == 5 + 6


@pytest.mark.parametrize(
    "changed",
    [{"calibration": {"input": Calibration(threshold=0.9)}}, {"base": "other@main"}, {"max_windows": 8}],
    ids=lambda changed: next(iter(changed)),
)
def test_other_settings_of_one_guardian_start_anew(data, reads_risk, own_guardian, tmp_path, changed):
    settings = {"calibration": {"input": Calibration(threshold=0.4)}, "base": "base@main"}
    for times, one in ((1, settings), (1, settings | {"responses": "written"}), (2, settings | changed)):
        score(data(), own_guardian(reads_risk, **one), folder=tmp_path / "scores", quiet=True)
        assert len(reads_risk.checks) == 5 * times


def test_another_version_of_the_library_starts_anew(data, reads_risk, tmp_path, monkeypatch):
    score(data(), reads_risk, folder=tmp_path / "scores", quiet=True)
    before = ScoreStore.made_of(tmp_path / "scores", "set")
    monkeypatch.setattr("guardrail_plugin.evals.store.__version__", "99.0")
    score(data(), reads_risk, folder=tmp_path / "scores", quiet=True)

    assert len(reads_risk.checks) == 2 * 5
    assert ScoreStore.made_of(tmp_path / "scores", "set") == before  # runs of two versions can be compared


def test_settings_of_members_count_and_other_guardians_have_none(reads_risk, own_guardian):
    def both(**settings):
        return Guardian.ensemble(own_guardian(reads_risk, **settings), reads_risk)

    assert judging_settings(reads_risk) == responding_settings(reads_risk) == {}
    assert judging_settings(Guardian.ensemble(reads_risk, reads_risk)) == {}
    assert judging_settings(both()) == judging_settings(both()) != judging_settings(both(max_windows=2))
    assert responding_settings(both()) != responding_settings(both(responses="written"))
    cascade = Guardian.cascade(reads_risk, own_guardian(reads_risk, base="b"))
    assert judging_settings(cascade)["members"][1]["base"] == "b"


def test_a_row_without_a_verdict_counts_as_found_harmful_and_is_asked_again(data, tmp_path):
    sick = True

    def judge(check):
        return GuardianError("no") if sick and "canary 1 " in check.text else verdict(risk=0.1)

    guardian = ScriptedGuardian(judge)
    failed = score(data(), guardian, folder=tmp_path / "scores", quiet=True)[1]
    sick = False
    healed = score(data(), guardian, folder=tmp_path / "scores", quiet=True)[1]

    assert (failed.harmful, failed.risk, failed.error) == (True, 1.0, "GuardianError")
    assert (healed.harmful, healed.risk, healed.error) == (False, 0.1, None)
    assert len(guardian.checks) == 6


def test_a_guardian_that_fails_time_after_time_ends_the_run(data):
    guardian = ScriptedGuardian(lambda _: PoolClosed("closed"))

    with pytest.raises(PoolClosed):
        score(data(40), guardian, quiet=True)


def test_a_guardian_that_answers_nothing_ends_even_a_short_run(data):
    with pytest.raises(PoolClosed):
        score(data(3), ScriptedGuardian(lambda _: PoolClosed("closed")), quiet=True)


def test_rows_that_nobody_could_score_are_no_sign_of_a_broken_guardian(data):
    scores = score(data(40), ScriptedGuardian(lambda _: InputError("no text")), quiet=True)

    assert {one.error for one in scores} == {"InputError"}


def test_a_policy_decides_in_place_of_the_guardian(data, reads_risk):
    scores = score(data(10), reads_risk, quiet=True)
    strict = decide(scores, Policy(threshold=0.2), rail="input", guardian_id="g")
    lenient = decide(scores, Policy(hazards={"S1": {"action": "allow"}}), rail="input", guardian_id="g")

    assert sum(one.harmful for one in strict) == 8
    assert sum(one.harmful for one in lenient) == 0
    assert [one.risk for one in strict] == [one.risk for one in scores]


def test_a_folder_that_cannot_be_written_is_a_config_error(data, reads_risk, tmp_path):
    (tmp_path / "scores").write_text("a file in the way", encoding="utf-8")

    with pytest.raises(ConfigError, match="cannot write"):
        score(data(), reads_risk, folder=tmp_path / "scores", quiet=True)


def test_a_disk_that_fills_up_is_told_in_one_line(data, reads_risk, tmp_path, monkeypatch):
    opened = Path.open

    def full(self, mode="r", **options):
        if mode == "a":
            raise OSError(28, "No space left on device")
        return opened(self, mode, **options)

    monkeypatch.setattr(Path, "open", full)
    with pytest.raises(ConfigError, match=r"cannot write .*set\.jsonl: No space left on device"):
        score(data(), reads_risk, folder=tmp_path / "scores", quiet=True)


class Stderr(io.StringIO):
    def __init__(self, *, terminal):
        super().__init__()
        self.isatty = lambda: terminal


@pytest.mark.parametrize(
    ("terminal", "quiet", "shown"), [(True, False, True), (True, True, False), (False, False, False)]
)
def test_progress_is_shown_on_a_terminal_unless_quiet(data, reads_risk, capsys, monkeypatch, terminal, quiet, shown):
    stderr = Stderr(terminal=terminal)
    monkeypatch.setattr("sys.stderr", stderr)
    score(data(), reads_risk, quiet=quiet)

    assert ("set" in stderr.getvalue()) == shown
    assert shown or stderr.getvalue() == ""
    assert capsys.readouterr().out == ""


@pytest.mark.parametrize("failing", [2, 20])
def test_rows_that_never_get_a_verdict_do_not_end_a_second_run(data, tmp_path, failing):
    def judge(check):
        number = int(check.text.split()[1])
        return InferenceError("refused by the server") if number in range(0, 2 * failing, 2) else verdict(risk=0.1)

    guardian = ScriptedGuardian(judge, guardian_id="choosy")
    first = score(data(4 * failing), guardian, folder=tmp_path / "scores", quiet=True)
    again = score(data(4 * failing), guardian, folder=tmp_path / "scores", quiet=True)

    assert [one.error for one in again] == [one.error for one in first]
    assert sum(one.error is not None for one in again) == failing
    assert len(guardian.checks) == 4 * failing + failing


def test_a_second_run_that_is_cut_short_forgets_no_failed_row(data, tmp_path):
    cut = False

    def judge(check):
        if cut:
            raise KeyboardInterrupt
        return InferenceError("refused by the server") if int(check.text.split()[1]) % 2 else verdict(risk=0.1)

    guardian = ScriptedGuardian(judge, guardian_id="choosy")
    first = score(data(40), guardian, folder=tmp_path / "scores", quiet=True)
    cut = True
    with pytest.raises(KeyboardInterrupt):
        score(data(40), guardian, folder=tmp_path / "scores", quiet=True)
    cut = False
    again = score(data(40), guardian, folder=tmp_path / "scores", quiet=True)
    assert [one.error for one in again] == [one.error for one in first]


def test_scores_keep_what_a_policy_acts_on(data, tmp_path):
    part = verdict(risk=0.9, hazard="S1")
    whole = replace(verdict(risk=0.95, hazard="S12"), members=(part,))
    allows_s12 = Policy(hazards={"S12": {"action": "allow"}})
    guardian = ScriptedGuardian(lambda _: whole, guardian_id="two-windows")

    for _ in range(2):  # fresh, and read back
        scores = score(data(1), guardian, folder=tmp_path / "scores", quiet=True)
        decided = decide(scores, allows_s12, rail="input", guardian_id="g")
        assert [one.harmful for one in decided] == [allows_s12.action(whole) != "allow"] == [True]
    assert len(guardian.checks) == 1


@pytest.mark.parametrize("lacking", ["incomplete", "stand_in"])
def test_a_verdict_that_lacks_a_guardian_is_asked_again(data, tmp_path, lacking):
    answers = [replace(verdict(risk=0.1), **{lacking: True}), verdict(risk=0.3)]
    guardian = ScriptedGuardian(lambda _: answers.pop(0), guardian_id="two")
    folder = tmp_path / "scores"

    first = score(data(1), guardian, folder=folder, quiet=True)
    closed = decide(first, Policy(), rail="input", guardian_id="g")
    again = score(data(1), guardian, folder=folder, quiet=True)

    assert closed[0].harmful == (lacking == "incomplete")
    assert [one.risk for one in again] == [0.3]
