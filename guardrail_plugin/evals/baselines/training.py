"""The rows that baselines learn from: TRAIN files, never a row that they are measured on."""

from __future__ import annotations

import hashlib
import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from guardrail_plugin.core.errors import ConfigError
from guardrail_plugin.core.verdict import Rail
from guardrail_plugin.evals.dataset import EvalFile, EvalRow, load
from guardrail_plugin.evals.suite import SuiteEntry, read_suite

ROWS_PER_FILE = 2000  # so that the largest file does not decide what harmless looks like


@dataclass(frozen=True, slots=True)
class TrainingSets:
    """Labelled rows per rail.

    Attributes:
        digest: hash of all rows in order; part of a baseline's id.
    """

    rows: dict[Rail, list[EvalRow]] = field(repr=False)
    digest: str


def training_sets(
    sources: Sequence[str], *, rows_per_file: int = ROWS_PER_FILE, seed: int = 0, measured: Sequence[EvalFile] = ()
) -> TrainingSets:
    """Read training rows.

    Args:
        sources: ``FILE``, ``FILE:rail`` or ``FOLDER``. Of a folder every JSONL file is read, except what the suite
            evaluates on; a file that the suite uses in part gives its other rows.
        rows_per_file: most rows of one file, drawn at random.
        seed: of that draw.
        measured: what the baseline is measured on. Its rows are left out, whatever file they are in.

    Raises:
        ConfigError: a source is missing or malformed, or a rail's rows all carry one label.
    """
    if not sources:
        raise ConfigError("this baseline learns from labelled rows: name TRAIN files or a data folder with --train")
    rows: dict[Rail, list[EvalRow]] = {}
    digest = hashlib.sha256()
    taken = {row.key for file in measured for row in load(file).rows}
    for read in (read for source in sources for read in _read(source)):
        found = [row for row in read if row.key not in taken]
        drawn = found if len(found) <= rows_per_file else random.Random(seed).sample(found, rows_per_file)
        for row in drawn:
            rows.setdefault(row.check.rail, []).append(row)
            digest.update(row.key + bytes([row.harmful]))
    if not rows:
        raise ConfigError("no training row is left: all that --train names is what the baseline is measured on")
    for rail, kept in rows.items():
        if len({row.harmful for row in kept}) < 2:
            raise ConfigError(f"the training rows of the {rail} rail all carry one label")
    return TrainingSets(rows, digest.hexdigest()[:8])


def _read(source: str) -> Iterator[list[EvalRow]]:
    folder = Path(source)
    if not folder.is_dir():
        yield list(load(EvalFile.parse(source)).rows)
        return
    suite = read_suite()
    found = False
    for path in sorted(folder.rglob("*.jsonl")):
        name = path.relative_to(folder).as_posix()
        taken = [entry for entry in suite.files if entry.path == name]
        if name in suite.training.skip or any(_whole(entry) for entry in taken):
            continue
        found = True
        rail = taken[0].rail if taken else None
        selections = [entry.file(folder) for entry in taken]
        yield [row for row in load(EvalFile(path, rail=rail)).rows if not _selected(row, selections)]
    if not found:
        raise ConfigError(f"{folder} holds no JSONL file that the suite does not evaluate on")


def _whole(entry: SuiteEntry) -> bool:
    return not entry.categories and entry.held_out >= 1.0


def _selected(row: EvalRow, selections: Sequence[EvalFile]) -> bool:
    return any(selection.selects(text=row.check.text, category=row.category) for selection in selections)
