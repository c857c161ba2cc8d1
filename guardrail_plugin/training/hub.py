"""Sources on the Hugging Face hub, through the ``datasets`` package: ``hub:OWNER/NAME`` in a recipe.

What comes back has the shape of our own JSONL rows, so that splits, draws and the check against evaluation texts apply
to hub sets as they do to files.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from importlib import import_module
from typing import TYPE_CHECKING, Any

from guardrail_plugin.core.errors import ConfigError, MissingDependencyError

if TYPE_CHECKING:
    from guardrail_plugin.training.config import Columns, Source

PREFIX = "hub:"


def hub_rows(source: Source) -> Iterator[dict[str, Any]]:
    """Yield the rows of a hub source whose label the recipe maps, in the shape of our JSONL rows.

    ``source.path`` may also name a local folder of JSON, CSV or parquet files: ``hub:./downloaded/set``.

    Raises:
        ConfigError: the set cannot be had (offline, gated, not there), or lacks a column or a mapped label.
        MissingDependencyError: ``datasets`` is not installed.
    """
    columns = source.columns
    if columns is None:
        raise ConfigError(f"{source.path} needs [sources.columns]: which columns hold text and label")
    if source.exclude_categories and columns.category is None:
        raise ConfigError(f"{source.path} excludes categories: [sources.columns] must name the column that holds them")
    data = _load(source)
    wanted = (columns.text, columns.label, columns.response, columns.category)
    lacking = [name for name in wanted if name is not None and name not in data.column_names]
    if lacking:
        raise ConfigError(f"{source.path} has no column {', '.join(lacking)}; it has {', '.join(data.column_names)}")
    found = False
    for row in data:
        if columns.category is not None and _excluded(row[columns.category], source.exclude_categories):
            continue
        shaped = _shaped(row, columns, output=source.rail == "output")
        if shaped is not None:
            found = True
            yield shaped
    if not found:
        raise ConfigError(f"{source.path}: no row has one of the labels that the recipe maps in {columns.label!r}")


def hub_name(source: Source) -> str:
    """Return what examples of a hub source are called: its name without the owner."""
    return source.path.removeprefix(PREFIX).rstrip("/").rpartition("/")[2]


def _load(source: Source) -> Any:
    try:
        datasets: Any = import_module("datasets")  # it ships no types
    except ImportError:
        raise MissingDependencyError("datasets", extra="hub") from None
    name = source.path.removeprefix(PREFIX)
    try:
        return datasets.load_dataset(name, source.config, split=source.split, revision=source.revision)
    except datasets.exceptions.DatasetNotFoundError as error:
        raise ConfigError(f"{source.path}: {_why_missing(error, source)}") from None
    except (ConnectionError, TimeoutError) as error:
        # OfflineModeIsEnabled is one of these, as is what datasets raises when the hub is out of reach.
        raise ConfigError(
            f"{source.path}: not in the local cache, and the hub is out of reach ({type(error).__name__}); fetch it "
            f"where there is a network, or name a local copy: path = {PREFIX + './FOLDER'!r}"
        ) from None
    except (ValueError, OSError, datasets.exceptions.DatasetGenerationError) as error:
        raise ConfigError(f"{source.path}: cannot be read: {type(error).__name__}: {_first_line(error)}") from None


def _why_missing(error: Exception, source: Source) -> str:
    if "gated" in str(error).lower() or source.gated:
        return f"gated or out of reach. {source.gated or 'Accept its terms on the hub, then run: hf auth login'}"
    return "there is no such data set on the hub, nor a folder of this name"


def _first_line(error: Exception) -> str:
    return str(error).partition("\n")[0][:200]


def _shaped(row: Mapping[str, Any], columns: Columns, *, output: bool) -> dict[str, Any] | None:
    """Return one row as ours, or ``None`` where its label is not mapped or a text is missing."""
    text, harmful = row[columns.text], _label(row[columns.label], columns)
    if not isinstance(text, str) or harmful is None:
        return None
    hazard = _hazard(row[columns.category], columns.hazards) if columns.category and harmful else None
    if not output:
        return {"text": text, "harmful": harmful, "category": hazard}
    if columns.response is None:
        raise ConfigError("a source of the output rail needs the column of its responses")
    return {"text": text, "response": row[columns.response], "response_harmful": harmful, "category": hazard}


def _excluded(value: object, prefixes: tuple[str, ...]) -> bool:
    """Return whether any of a row's categories, as the set names them, begins with one of these."""
    return any(name.startswith(prefixes) for name in _names(value)) if prefixes else False


def _label(value: object, columns: Columns) -> bool | None:
    # A bool is an int in Python: true must not stand for 1.
    def one_of(mapped: tuple[str | bool | int, ...]) -> bool:
        return any(type(value) is type(other) and value == other for other in mapped)

    if one_of(columns.harmful):
        return True
    return False if one_of(columns.harmless) else None


def _hazard(value: object, hazards: Mapping[str, str]) -> str | None:
    """Return the first mapped hazard of a category: a name, names with commas between, a list, or names to flags."""
    return next((hazards[name] for name in _names(value) if name in hazards), None)


def _names(value: object) -> list[str]:
    if isinstance(value, str):
        return [value, *(name.strip() for name in value.split(","))]
    if isinstance(value, Mapping):
        return [str(name) for name, holds in value.items() if holds]
    return [str(name) for name in value] if isinstance(value, list) else []
