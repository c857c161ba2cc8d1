"""The three report files: complete, self-contained, without text unless asked, honest about what is missing."""

from __future__ import annotations

import json
import re
from html.parser import HTMLParser

import pytest

from guardrail_plugin.core.errors import ConfigError, InputError
from guardrail_plugin.core.policy import Policy
from guardrail_plugin.evals import report
from guardrail_plugin.evals.dataset import EvalFile
from guardrail_plugin.evals.metrics import METRICS
from guardrail_plugin.evals.run import Options, evaluate
from guardrail_plugin.testing import ScriptedGuardian, verdict

FAST = Options(resamples=100, quiet=True)
VOID = {"meta", "br", "link", "img", "input"}


class Page(HTMLParser):
    """Collects what the checks below ask about, and fails on tags that do not nest."""

    def __init__(self, text):
        super().__init__()
        self.open, self.ids, self.refs, self.urls, self.tags, self.text = [], [], [], [], [], []
        self.feed(text)
        assert self.open == []

    def handle_starttag(self, tag, attrs):
        found = dict(attrs)
        self.tags.append((tag, found))
        self.ids += [found["id"]] if "id" in found else []
        for name, value in found.items():
            if name in ("href", "xlink:href", "src"):
                (self.refs if value.startswith("#") else self.urls).append(value)
            self.refs += [f"#{name}" for name in re.findall(r"url\(#([^)]+)\)", value or "")]
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.handle_starttag(tag, attrs)
        if tag not in VOID:
            self.open.pop()

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.text.append(data)


def make_rows(name, count, *, label=None, **fields):
    """Rows whose risk mostly agrees with the label; every seventh does not."""
    rows = []
    for i in range(count):
        harmful = bool(i % 2) if label is None else label
        risk = 0.05 + 0.9 * (harmful != (i % 7 == 0)) * (1 - i / (2 * count))
        text = f"canary <b>{name}</b> {i} risk={risk:.4f}"
        rows.append({"id": f"{name}-{i}", "text": text, "harmful": harmful} | fields)
    return rows


def judge(check):
    return verdict(risk=float(check.text.partition("risk=")[2]), hazard="S1")


def write_files(folder):
    mixed = make_rows("mix", 80, category="<i>topic</i>", lang="en") + make_rows("ko", 20, lang="ko", category="S1")
    sets = {
        "mixed": [*mixed, {"id": "unlabelled", "text": "x", "harmful": None}],
        "simple_safety_tests": make_rows("bad", 20, label=True),
        "harmless": [*make_rows("good", 20, label=False), *make_rows("mix", 10, label=False)[:1]],
    }
    folder.mkdir(exist_ok=True)
    for name, rows in sets.items():
        (folder / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return [EvalFile(folder / f"{name}.jsonl") for name in sets]


@pytest.fixture
def run(tmp_path):
    """Evaluate the three files, in a folder of this test's own."""

    def go(options=FAST, guardian=None):
        files = write_files(tmp_path / "data")
        chosen = guardian or ScriptedGuardian(judge, guardian_id="reads-risk")
        return evaluate(chosen, files, out=tmp_path / "out", options=options), tmp_path / "out"

    return go


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """One finished run, for the tests that only read: the result and the page's folder."""
    folder = tmp_path_factory.mktemp("finished")
    guardian = ScriptedGuardian(judge, guardian_id="reads-risk")
    return evaluate(guardian, write_files(folder / "data"), out=folder / "out", options=FAST), folder / "out"


def test_results_json_holds_every_figure_or_null(finished):
    result, out = finished
    found = json.loads((out / "results.json").read_text(encoding="utf-8"))

    assert [one["name"] for one in found["files"]] == ["mixed", "simple_safety_tests", "harmless"]
    assert found["guardian"] == "reads-risk"
    for one in found["files"]:
        assert one["metrics"].keys() == METRICS.keys()
    assert found["files"][1]["metrics"]["f1"]["value"] is None
    assert found["files"][2]["metrics"]["recall"]["value"] is None
    assert found["files"][0]["skipped"] == 1
    assert found["files"][0]["metrics"]["f1"]["value"] == result.files[0].metrics["f1"].value


def test_totals_count_a_text_once(finished):
    result, _ = finished

    [total] = result.totals
    assert total.name == "all input"
    assert sum(one.n for one in result.files) == 141
    assert total.n == 140  # one harmless text stands in two files


def test_no_file_holds_text_unless_asked(finished):
    _, out = finished

    for file in out.rglob("*"):
        if file.is_file():
            assert "canary" not in file.read_text(encoding="utf-8"), file.name


def test_only_the_page_shows_text_when_asked_and_it_is_escaped(run):
    _, out = run(Options(resamples=100, quiet=True, show_text=True))
    page = (out / "report.html").read_text(encoding="utf-8")

    assert "canary &lt;b&gt;mix&lt;/b&gt;" in page
    assert "<b>mix</b>" not in page
    assert "<i>topic</i>" not in page
    assert "canary" not in (out / "table.md").read_text(encoding="utf-8")
    assert "canary" not in (out / "results.json").read_text(encoding="utf-8")


def test_the_page_is_whole_self_contained_and_accessible(finished):
    _, out = finished
    text = (out / "report.html").read_text(encoding="utf-8")
    page = Page(text)

    assert page.urls == []  # no link leads out of the page, nothing is fetched
    assert "@import" not in text
    assert "<script" not in text
    assert len(page.ids) == len(set(page.ids))
    assert {ref[1:] for ref in page.refs} <= set(page.ids)
    pictures = [attrs for tag, attrs in page.tags if tag == "svg"]
    assert len(pictures) >= 3
    assert all(attrs.get("role") == "img" and len(attrs["aria-label"]) > 40 for attrs in pictures)
    assert all("scope" in attrs for tag, attrs in page.tags if tag == "th")
    tables = sum(tag == "table" for tag, _ in page.tags)
    assert tables == sum(tag == "caption" for tag, _ in page.tags) > 5
    assert ("html", {"lang": "en"}) in page.tags


def test_figures_follow_the_readers_theme(finished):
    _, out = finished
    text = (out / "report.html").read_text(encoding="utf-8")
    drawn = "".join(re.findall(r"<svg.*?</svg>", text, flags=re.DOTALL))

    assert "prefers-color-scheme: dark" in text
    assert "var(--harm)" in drawn
    assert "currentColor" in drawn
    assert not re.search(r"#0[1-4]0[1-4]0[1-4]", drawn)
    assert not re.search(r"(?:fill|stroke): #(?:fff|FFF|000)", drawn)


@pytest.mark.parametrize(
    "words",
    [
        "Precision and recall",
        "ROC",
        "Calibration",
        "Risk by label",
        "Threshold sweep",
        "Confusion by source",
        "Worst misses",
        "not measured here",
        "mixed by language",
        "1 row without a label left out",
        "140 distinct texts of 141 rows",
    ],
)
def test_the_page_has_every_part(finished, words):
    _, out = finished

    assert words in re.sub(r"\s+", " ", "".join(Page((out / "report.html").read_text(encoding="utf-8")).text))


def test_the_table_lists_every_set_with_intervals_and_absences(finished):
    _, out = finished
    table = (out / "table.md").read_text(encoding="utf-8")
    lines = {line.split(" | ")[0].removeprefix("| "): line for line in table.splitlines() if line.startswith("| ")}

    assert {"mixed", "simple_safety_tests", "harmless", "all input"} <= lines.keys()
    assert re.search(r"0\.\d{3} \(0\.\d{3}–0\.\d{3}\)", lines["mixed"])
    assert "| – |" in lines["harmless"]
    assert "Llama Guard 3 (Q)" in lines


def test_a_row_without_a_verdict_is_reported(run):
    def fails_on_some(check):
        return InputError("no") if "ko" in check.text else verdict(risk=0.1)

    result, out = run(guardian=ScriptedGuardian(fails_on_some))

    assert result.files[0].failed == 20
    assert "20 rows without a verdict, counted as found harmful" in (out / "table.md").read_text(encoding="utf-8")


def test_a_policy_decides_and_is_named(run, finished):
    plain, _ = finished
    strict, out = run(Options(policy=Policy(version="mine-1", threshold=0.01), resamples=100, quiet=True))

    assert strict.files[2].metrics["fpr"].value == 1.0 > plain.files[2].metrics["fpr"].value
    assert strict.policy == "mine-1"
    assert "policy mine-1" in (out / "report.html").read_text(encoding="utf-8")


@pytest.mark.parametrize(
    ("policy", "threshold"),
    [
        ({"threshold": 0.9}, 0.9),
        ({"rails": {"input": {"threshold": 0.8}}}, 0.8),
        ({"hazards": {"S1": {"action": "escalate"}}}, 0.5),
        ({"hazards": {"S1": {"threshold": 0.7}}}, None),
        ({"hazards": {"S1": {"action": "allow"}}}, None),
        ({"rails": {"input": {"action": "allow"}}}, None),
    ],
)
def test_the_threshold_is_that_of_who_decided(run, monkeypatch, policy, threshold):
    drawn = []
    monkeypatch.setattr(report, "sweep_figure", lambda points, *, threshold: drawn.append(threshold))
    monkeypatch.setattr(report, "set_figure", lambda *_, threshold: drawn.append(threshold))
    monkeypatch.setattr(report, "svg", lambda *_, **__: "")
    result, out = run(Options(policy=Policy(**policy), resamples=100, quiet=True))

    assert {one.threshold for one in (*result.files, *result.totals)} == {threshold}
    assert set(drawn) == {threshold}
    page = (out / "report.html").read_text(encoding="utf-8")
    assert (f"the policy acts at {threshold:.3f}" if threshold else "per threshold.") in page
    assert "the guardian acts at" not in page


def test_a_text_that_occurs_again_or_with_both_labels_is_told(write_jsonl, reads_risk, tmp_path):
    texts = [("a", True), ("b", False), ("b", False), ("c", True), ("c", False)]
    file = EvalFile(write_jsonl("one.jsonl", [{"text": text, "harmful": label} for text, label in texts]))

    result = evaluate(reads_risk, [file], out=tmp_path / "out", options=FAST)

    table = (tmp_path / "out" / "table.md").read_text(encoding="utf-8")
    assert "all input: 3 distinct texts of 5 rows; texts that occur more than once count once." in table
    assert "all input: 1 text is labelled both harmful and harmless; the first label counts in totals." in table
    assert "overlap" not in table
    assert (result.totals[0].harmful, result.totals[0].contradictory, result.files[0].contradictory) == (2, 1, 1)


def test_a_resumed_run_writes_the_same_page_but_for_its_date(run):
    pages = [(run()[1] / "report.html").read_text(encoding="utf-8") for _ in range(2)]

    assert len({re.sub(r"<dt>Run</dt><dd>[^<]*</dd>", "", page) for page in pages}) == 1


def test_files_with_one_label_alone_still_make_a_report(write_jsonl, reads_risk, tmp_path):
    file = EvalFile(write_jsonl("bad.jsonl", make_rows("bad", 5, label=True)))

    result = evaluate(reads_risk, [file], out=tmp_path / "out", options=FAST)

    page = Page((tmp_path / "out" / "report.html").read_text(encoding="utf-8"))
    assert result.totals[0].metrics["auroc"].value is None
    assert any("No set of this run has both labels" in text for text in page.text)


def test_a_lone_surrogate_in_a_text_or_an_id_breaks_no_file(write_jsonl, reads_risk, tmp_path):
    rows = [{"id": "\ud800", "text": "\ud800 risk=0.9", "harmful": False}, {"text": "x", "harmful": True}]
    file = EvalFile(write_jsonl("odd.jsonl", rows))

    evaluate(reads_risk, [file], out=tmp_path / "out", options=Options(resamples=100, quiet=True, show_text=True))

    assert "worst misses" in (tmp_path / "out" / "report.html").read_text(encoding="utf-8").lower()


def test_a_broken_file_costs_no_scoring(write_jsonl, reads_risk, tmp_path):
    files = write_files(tmp_path / "data")
    broken = EvalFile(write_jsonl("broken.jsonl", ["{"]))

    with pytest.raises(ConfigError, match="line 1"):
        evaluate(reads_risk, [*files, broken], out=tmp_path / "out", options=FAST)

    assert reads_risk.checks == []


def test_nothing_to_evaluate_on_is_a_config_error(reads_risk, tmp_path):
    with pytest.raises(ConfigError, match="--suite"):
        evaluate(reads_risk, [], out=tmp_path / "out")
