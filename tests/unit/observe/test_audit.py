"""The audit log: what it holds, how it rotates and goes on, and that nobody changes it unnoticed."""

from __future__ import annotations

import json
import os
import stat
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest

from guardrail_plugin import Check, ConfigError, Policy
from guardrail_plugin.flow import Allowed, Blocked
from guardrail_plugin.observe import AuditLog, RailEvent, verify
from guardrail_plugin.testing import verdict

KEY = b"0123456789abcdef"
SECRET = "my private words"
WRITTEN = (
    rb'{"sequence":1,"at_s":12.5,"kind":"rail","rail":"input","action":"block","harmful":true,"risk":0.99,"hazard":null,'
    rb'"hazards":{"S9":0.5},"policy_threshold":null,"acted_on":null,"guardian_id":null,"policy_version":"p",'
    rb'"seconds":1e-06,"windows":0,"truncated":false,"error":null,"on_failure":"block","released_characters":0,'
    rb'"request_id":"","caller":"","texts":[{"rail":"input","characters":6,'
    rb'"hash":"68461334aba8563f6963a73b13bd2341f598015769820c098b242723211f9b83","text":"caf\u00e9 \ud800"}],'
    rb'"previous":"0000000000000000000000000000000000000000000000000000000000000000",'
    rb'"digest":"5e4b1c8758d35cd0b80f8b4909a15630e7f76369d651955d5dc4d32d13308a52"}'
)
"""A line as it was written before the log was unbuffered, under ``KEY``."""


def event(text: str = SECRET) -> RailEvent:
    outcome = Blocked("input", "No.", verdict(risk=0.9, hazard="S9"))
    return RailEvent.of(outcome, policy=Policy(), seconds=0.1, checks=[Check(text)], request_id="r1", caller="alice")


posix = pytest.mark.skipif(sys.platform == "win32", reason="limits")


@contextmanager
def limited(kind: str, soft: int) -> Iterator[None]:
    """Let the process have no longer files, or no more of them."""
    import resource

    before, hard = resource.getrlimit(getattr(resource, kind))
    resource.setrlimit(getattr(resource, kind), (soft, hard))
    try:
        yield
    finally:
        resource.setrlimit(getattr(resource, kind), (before, hard))


def lines(path: Path) -> list[dict[str, object]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_hashes_and_verdicts_and_no_text(tmp_path: Path) -> None:
    path = tmp_path / "logs" / "audit.jsonl"
    log = AuditLog(path, key=KEY, clock=lambda: 12.5)
    log.rail(event())
    log.close()
    assert SECRET not in path.read_text()
    [line] = lines(path)
    assert line["sequence"] == 1
    assert line["at_s"] == 12.5
    assert (line["action"], line["hazard"], line["caller"], line["risk"]) == ("block", "S9", "alice", 0.9)
    assert line["texts"] == [{"rail": "input", "characters": 16, "hash": line["texts"][0]["hash"]}]  # type: ignore[index]
    assert stat.S_IMODE(path.stat().st_mode) == 0o600


def test_equal_texts_have_equal_hashes_only_under_one_key(tmp_path: Path) -> None:
    def hashed(name: str, key: bytes | None) -> list[object]:
        log = AuditLog(tmp_path / name, key=key)
        for text in ("a", "a", "b"):
            log.rail(event(text))
        log.close()
        return [line["texts"][0]["hash"] for line in lines(tmp_path / name)]  # type: ignore[index]

    one, other = hashed("one", KEY), hashed("other", b"another-key-of-16")
    assert one[0] == one[1] != one[2]
    assert not set(one) & set(other)


def test_text_where_switched_on(tmp_path: Path) -> None:
    log = AuditLog(tmp_path / "audit", with_text=True)
    log.rail(event("lone \ud800 surrogate"))
    log.close()
    assert lines(tmp_path / "audit")[0]["texts"][0]["text"] == "lone \ud800 surrogate"  # type: ignore[index]
    assert verify(tmp_path / "audit").broken is None


def test_rotation_keeps_the_chain(tmp_path: Path) -> None:
    path = tmp_path / "audit"
    log = AuditLog(path, key=KEY, max_bytes=2048)
    for _ in range(20):
        log.rail(event())
    log.close()
    assert len(list(tmp_path.iterdir())) > 3
    report = verify(path, key=KEY)
    assert (report.broken, report.lines, report.first, report.last) == (None, 20, 1, 20)


def test_a_restart_goes_on_where_it_was(tmp_path: Path) -> None:
    path = tmp_path / "audit"
    for _ in range(3):
        log = AuditLog(path, key=KEY, max_bytes=1024)
        log.rail(event())
        log.close()
    assert verify(path, key=KEY).lines == 3


def test_old_files_are_dropped(tmp_path: Path) -> None:
    path = tmp_path / "audit"
    log = AuditLog(path, key=KEY, max_bytes=1024, keep=2)
    for _ in range(20):
        log.rail(event())
    log.close()
    assert len(list(tmp_path.glob("audit.*"))) == 2
    report = verify(path, key=KEY)
    assert report.broken is None
    assert report.first > 1


Tamper = Callable[[list[str]], list[str]]


@pytest.mark.parametrize(
    ("tamper", "told"),
    [
        (lambda rows: [rows[0].replace('"block"', '"allow"'), *rows[1:]], "line 1: changed"),
        (lambda rows: [rows[0], *rows[2:]], "line 2: a line before it is missing"),
        (lambda rows: [rows[0], rows[2], rows[1], *rows[3:]], "line 2: a line before it is missing"),
        (lambda rows: [*rows[:2], "{}", *rows[2:]], "line 3: not a line"),
        (lambda rows: [*rows[:2], "nonsense", *rows[2:]], "line 3: not a line"),
        (lambda rows: [*rows[:2], '{"digest":"","sequence":1e999,"previous":""}', *rows[2:]], "line 3: not a line"),
        (lambda rows: [*rows[:2], "[" * 100_000, *rows[2:]], "line 3: not a line"),
        (lambda rows: [rows[0], rows[0], *rows[1:]], "line 2: a line before it is missing"),
        (lambda rows: ['{"action":"allow",' + rows[0][1:], *rows[1:]], "line 1: changed"),
        (lambda rows: [rows[0].replace('"characters"', '"hash":"0","characters"'), *rows[1:]], "line 1: changed"),
        (lambda rows: [rows[0].replace('"block"', '"bl\\u006fck"'), *rows[1:]], "line 1: changed"),
        (lambda rows: [" " + rows[0], *rows[1:]], "line 1: changed"),
        (lambda rows: [rows[0][:-3] + '\\u00e9"}', *rows[1:]], "line 1: not a line"),
    ],
)
def test_changes_are_found(tmp_path: Path, tamper: Tamper, told: str) -> None:
    path = tmp_path / "audit"
    log = AuditLog(path, key=KEY)
    for _ in range(5):
        log.rail(event())
    log.close()
    path.write_text("\n".join(tamper(path.read_text().splitlines())) + "\n")
    assert told in str(verify(path, key=KEY).broken)


@pytest.mark.parametrize("end", [b"\n", b"\r\n"])
def test_a_log_of_an_earlier_version_stays_whole(tmp_path: Path, end: bytes) -> None:
    path = tmp_path / "audit"
    path.write_bytes(WRITTEN + end)
    assert (verify(path, key=KEY).lines, verify(path, key=KEY).broken) == (1, None)
    log = AuditLog(path, key=KEY)
    log.rail(event())
    log.close()
    assert (verify(path, key=KEY).lines, verify(path, key=KEY).broken) == (2, None)


def test_a_forger_without_the_key_is_found(tmp_path: Path) -> None:
    path = tmp_path / "audit"
    log = AuditLog(path)
    log.rail(event())
    log.close()
    assert verify(path).broken is None
    assert "another key" in str(verify(path, key=KEY).broken)


def test_a_broken_end_is_not_continued(tmp_path: Path) -> None:
    path = tmp_path / "audit"
    path.write_text('{"sequence": 1, "dig')
    with pytest.raises(ConfigError, match="last line"):
        AuditLog(path)


def test_a_file_that_cannot_be_renamed_goes_on_growing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(self: Path, target: Path) -> None:
        raise PermissionError

    path = tmp_path / "audit"
    log = AuditLog(path, max_bytes=1024)
    with monkeypatch.context() as patched:
        patched.setattr(Path, "rename", refuse)
        for _ in range(4):
            with suppress(PermissionError):
                log.rail(event())
    log.rail(event())
    log.close()
    assert (verify(path).lines, verify(path).broken) == (5, None)


@posix
@pytest.mark.parametrize("decisions", [1, 30])
def test_a_full_disk_ends_neither_the_log_nor_the_chain(tmp_path: Path, decisions: int) -> None:
    path = tmp_path / "audit"
    log = AuditLog(path, key=KEY)
    log.rail(event())
    whole = path.read_bytes()
    with limited("RLIMIT_FSIZE", len(whole) + 100):
        for _ in range(decisions):
            with pytest.raises(OSError, match="large"):
                log.rail(event())
            assert path.read_bytes() == whole
    log.rail(event())
    log.close()
    assert [line["sequence"] for line in lines(path)] == [1, 2]
    assert verify(path, key=KEY).broken is None


@posix
def test_what_could_not_be_cut_off_is_cut_off_later(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(size: int) -> None:
        raise OSError(5, "Input/output error")

    path = tmp_path / "audit"
    log = AuditLog(path)
    log.rail(event())
    with monkeypatch.context() as patched, limited("RLIMIT_FSIZE", path.stat().st_size + 100):
        patched.setattr(log._file, "truncate", refuse)
        for _ in range(2):
            with pytest.raises(OSError, match="Input/output"):
                log.rail(event())
    log.rail(event())
    log.close()
    assert (verify(path).lines, verify(path).broken) == (2, None)


def test_a_file_that_cannot_be_opened_after_rotation_is_opened_later(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(path: Path, flags: int, mode: int) -> int:
        raise OSError(24, "Too many open files")

    path = tmp_path / "audit"
    log = AuditLog(path, max_bytes=1024)
    log.rail(event())
    with monkeypatch.context() as patched:
        patched.setattr(os, "open", refuse)
        for _ in range(2):
            with pytest.raises(OSError, match="Too many"):
                log.rail(event())
    log.rail(event())
    log.close()
    assert (verify(path).lines, verify(path).broken) == (3, None)


@posix
def test_full_files_that_cannot_be_listed_are_not_replaced(tmp_path: Path) -> None:
    path = tmp_path / "audit"
    log = AuditLog(path, max_bytes=1024)
    for _ in range(3):
        log.rail(event())
    with limited("RLIMIT_NOFILE", 3):
        for _ in range(2):
            with pytest.raises(OSError, match="Too many"):
                log.rail(event())
    log.rail(event())
    log.close()
    assert (verify(path).lines, verify(path).broken) == (6, None)


@pytest.mark.parametrize("name", ["audit[eu].jsonl", "audit?", "audit*"])
def test_a_name_is_no_pattern(tmp_path: Path, name: str) -> None:
    (tmp_path / f"{name}.jsonl.000007").write_text("another log's")
    for _ in range(2):
        log = AuditLog(tmp_path / name, max_bytes=1024)
        for _ in range(5):
            log.rail(event())
        log.close()
    report = verify(tmp_path / name)
    assert (report.broken, report.lines, report.last) == (None, 10, 10)


def test_a_closed_log_stays_closed(tmp_path: Path) -> None:
    log = AuditLog(tmp_path / "audit")
    for _ in range(2):
        log.close()
        with pytest.raises(ValueError, match="closed"):
            log.rail(event())


def test_a_log_that_may_not_be_read_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(self: Path, mode: str) -> None:
        raise PermissionError(13, "Permission denied")

    path = tmp_path / "audit"
    log = AuditLog(path)
    log.rail(event())
    log.close()
    monkeypatch.setattr(Path, "open", refuse)
    for read in (verify, AuditLog):
        with pytest.raises(ConfigError, match=r"cannot read the audit log .*: Permission denied"):
            read(path)


def test_many_threads_write_whole_lines(tmp_path: Path) -> None:
    path = tmp_path / "audit"
    log = AuditLog(path, key=KEY, max_bytes=4096)
    writers = [threading.Thread(target=lambda: [log.rail(event()) for _ in range(25)]) for _ in range(8)]
    for writer in writers:
        writer.start()
    for writer in writers:
        writer.join()
    log.close()
    assert verify(path, key=KEY).lines == 200


@pytest.mark.parametrize("settings", [{"max_bytes": 10}, {"keep": 0}, {"key": b"short"}])
def test_settings(tmp_path: Path, settings: dict[str, object]) -> None:
    with pytest.raises(ConfigError):
        AuditLog(tmp_path / "audit", **settings)  # type: ignore[arg-type]
    with pytest.raises(ConfigError):
        AuditLog(tmp_path, key=KEY)
    with pytest.raises(ConfigError):
        verify(tmp_path / "nothing")


def test_an_allowed_text_without_a_verdict(tmp_path: Path) -> None:
    log = AuditLog(tmp_path / "audit")
    log.rail(RailEvent.of(Allowed("output"), policy=Policy(), seconds=0.0))
    log.close()
    [line] = lines(tmp_path / "audit")
    assert (line["harmful"], line["risk"], line["texts"]) == (None, None, [])
