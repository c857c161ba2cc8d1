"""The files that make up a standard evaluation, by name, in a folder laid out like the project's data folder."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from guardrail_plugin.core.errors import ConfigError
from guardrail_plugin.core.settings import explained, read_toml
from guardrail_plugin.core.verdict import Rail
from guardrail_plugin.evals.dataset import EvalFile

SUITES_FILE = Path(__file__).parent / "suites.toml"


class _Strict(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class SuiteEntry(_Strict):
    """One entry of ``suites.toml``; the fields are those of ``EvalFile``, the path is relative to the data folder."""

    path: str
    rail: Rail | None = None
    name: str = ""
    categories: tuple[str, ...] = ()
    held_out: Annotated[float, Field(gt=0, le=1)] = 1.0

    def file(self, folder: Path) -> EvalFile:
        """Return the file in a data folder."""
        return EvalFile(
            folder / self.path, rail=self.rail, name=self.name, categories=self.categories, held_out=self.held_out
        )


class TrainingRules(_Strict):
    """Files of a data folder that baselines do not train on, beside those of the suite."""

    skip: tuple[str, ...] = ()


class Suite(_Strict):
    """What ``suites.toml`` holds."""

    files: tuple[SuiteEntry, ...]
    development: tuple[SuiteEntry, ...] = ()
    training: TrainingRules = TrainingRules()


def read_suite(toml: Path = SUITES_FILE) -> Suite:
    """Read a suite file.

    Raises:
        ConfigError: it cannot be read, is not TOML, or has an unknown key or a value out of range.
    """
    try:
        return Suite(**read_toml(toml, what="suite"))
    except ValidationError as error:
        known = {*Suite.model_fields, *SuiteEntry.model_fields, *TrainingRules.model_fields}
        raise ConfigError(f"{toml}: {explained(error, lambda _: known)}") from None


def load_suite(folder: Path, *, development: bool = False) -> list[EvalFile]:
    """Return the suite's files in a data folder, or those on which choices are made before the suite is looked at.

    Raises:
        ConfigError: files are missing; a part of the suite would give totals that compare with nothing.
    """
    suite = read_suite()
    files = [entry.file(folder) for entry in (suite.development if development else suite.files)]
    missing = sorted({str(file.path.relative_to(folder)) for file in files if not file.path.is_file()})
    if missing:
        shown = ", ".join(missing[:5]) + (f" and {len(missing) - 5} more" if len(missing) > 5 else "")
        raise ConfigError(f"{folder} lacks files of the suite: {shown}")
    return files


_TELLING_APART: tuple[Callable[[EvalFile], str], ...] = (
    lambda file: f"{file.path.parent.name}-{file.name}",
    lambda file: f"{file.name}-{file.rail or 'auto'}",
)


def _folder(depth: int) -> Callable[[EvalFile], str]:
    """Name a file by a folder further up."""

    def tell(file: EvalFile) -> str:
        above = file.path.resolve().parents
        return f"{above[depth].name}-{file.name}" if depth < len(above) - 1 else file.name

    return tell


def with_unique_names(files: Sequence[EvalFile]) -> list[EvalFile]:
    """Tell files of one name apart, by folder, rail and folders above, so that each has a scores file of its own.

    Raises:
        ConfigError: the same file, rail and selection is named twice.
    """
    named = list(files)
    deepest = max((len(file.path.resolve().parents) for file in files), default=0)
    for tell in (*_TELLING_APART, *map(_folder, range(1, deepest))):
        counts = Counter(file.name for file in named)
        named = [replace(file, name=tell(file)) if counts[file.name] > 1 else file for file in named]
    for name, count in Counter(file.name for file in named).items():
        if count > 1:
            path = next(file.path for file in named if file.name == name)
            raise ConfigError(f"{path} is named twice")
    return named
