"""From ``--config`` and ``--data`` to a training configuration and the folders that its files are in."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from rich.console import Console

from guardrail_plugin.core.errors import ConfigError, did_you_mean

if TYPE_CHECKING:
    from guardrail_plugin.training.config import Source, TrainConfig

RECIPES = Path(__file__).parent.parent / "training" / "recipes"
TUNE = "tune"
"""The recipe of those who give rows of their own and no recipe."""
EMBEDDED = "embedded"
"""The shipped guardian's name in ``start_from``."""


def assemble(
    config: str | None,
    data: Sequence[Path],
    *,
    base: str | None = None,
    base_revision: str | None = None,
    start_from: str | None = None,
) -> tuple[TrainConfig, list[Path]]:
    """Return the configuration and the data folders. Files of their own become sources of the input rail.

    Without a recipe they tune a guardian, the embedded one unless ``start_from`` names another; with a ``base`` and
    nothing to start from they train a new one from it.

    Raises:
        ConfigError: no such recipe, file or folder; nothing to train on; a file without a usable row.
    """
    from guardrail_plugin.training.config import TrainConfig

    files = [path for path in data if path.is_file()]
    folders = [path for path in data if path.is_dir()]
    for path in data:
        if path not in files and path not in folders:
            raise ConfigError(f"there is no file or folder {path}")
    if config is None and (folders or not files):
        # Whole folders may hold evaluation sets, so which of their files are for training is a recipe's to say.
        raise ConfigError("name the recipe of a data folder with --config (default), or give --data FILE.jsonl")
    anew = config is None and base is not None and start_from is None
    recipe = TrainConfig() if anew else TrainConfig.from_toml(find_recipe(config or TUNE))
    folders += [path.parent for path in files]
    added = [_source(path, folders) for path in files]
    labels = set[bool]().union(*(found for _, found in added))
    if anew and len(labels) < 2:
        lacking = "harmless" if True in labels else "harmful"
        raise ConfigError(f"the given files have no {lacking} row: a guardian learns from both kinds")
    changes: dict[str, object] = {"sources": (*recipe.sources, *(source for source, _ in added))}
    if start_from is not None:
        changes |= _started(start_from, recipe if config is None else None)
    if base is not None:
        changes |= {"base": base, "base_revision": base_revision}  # the recipe's revision is of the recipe's base
    elif base_revision is not None:
        changes["base_revision"] = base_revision
    return recipe.model_copy(update=changes), folders


def guardian_folder(start_from: str) -> Path | None:
    """Return the folder of the guardian that a run goes on from; ``None``: it names a recipe.

    Raises:
        ConfigError: it is a folder that holds no guardian.
    """
    from guardrail_plugin.assembly import EMBEDDED_GUARDIAN
    from guardrail_plugin.guardian.manifest import MANIFEST_FILE

    folder = EMBEDDED_GUARDIAN if start_from == EMBEDDED else Path(start_from).expanduser()
    if (folder / MANIFEST_FILE).is_file():
        return folder
    if folder.is_dir():
        raise ConfigError(f"{folder} holds no guardian to go on from (no {MANIFEST_FILE})")
    return None


def _started(start_from: str, tune: TrainConfig | None) -> dict[str, object]:
    """Return what a run that goes on from a guardian takes over from it: its base and, to ``tune`` it, its ranks.

    It must not hold out what the guardian was trained on, so it holds out no more than that did.

    The base's revision, too, where it is a repository: a recipe's own is that of another base.
    """
    from guardrail_plugin.guardian.manifest import Manifest
    from guardrail_plugin.models.locate import EMBEDDED_MODEL
    from guardrail_plugin.training.widen import ranks_of

    folder = guardian_folder(start_from)
    if folder is None:
        return {"start_from": start_from}
    manifest = Manifest.read(folder)
    rank, alpha = ranks_of(folder)
    base = manifest.base_model
    pinned = base != EMBEDDED_MODEL and not Path(base).expanduser().exists()
    taken: dict[str, object] = {
        "start_from": start_from,
        "base": base,
        "base_revision": manifest.base_revision if pinned else None,
    }
    if tune is None:
        return taken
    held = manifest.training.get("validation_fraction")
    if isinstance(held, float):
        taken["validation_fraction"] = min(tune.validation_fraction, held)
    return {**taken, "lora_rank": rank, "lora_alpha": alpha}


def first_stage(
    recipe: TrainConfig, folders: Sequence[Path], *, out: Path, device: str | None, max_steps: int | None, quiet: bool
) -> Path | None:
    """Return the folder of the guardian that a recipe goes on from; a recipe is trained into ``out/stage-NAME`` first.

    It is not trained again where it is there.

    Raises:
        ConfigError: what is there was trained by another recipe or on other data, or stopped after another number of
            steps.
    """
    from guardrail_plugin.guardian.manifest import MANIFEST_FILE
    from guardrail_plugin.training.config import TrainConfig
    from guardrail_plugin.training.loop import train

    if recipe.start_from is None:
        return None
    if (given := guardian_folder(recipe.start_from)) is not None:
        return given
    folder = out / f"stage-{Path(recipe.start_from).stem}"
    earlier = TrainConfig.from_toml(find_recipe(recipe.start_from)).model_copy(
        update={"base": recipe.base, "base_revision": recipe.base_revision}
    )
    if (folder / MANIFEST_FILE).is_file():
        _check_stage(folder, earlier, folders, max_steps=max_steps)
    else:
        start = first_stage(earlier, folders, out=out, device=device, max_steps=max_steps, quiet=quiet)
        train(earlier, data_folders=folders, out=folder, device=device, start=start, max_steps=max_steps, quiet=quiet)
    return folder


def _check_stage(folder: Path, recipe: TrainConfig, folders: Sequence[Path], *, max_steps: int | None) -> None:
    from guardrail_plugin.guardian.manifest import Manifest
    from guardrail_plugin.training.artefact import DATA, STOPPED_AT
    from guardrail_plugin.training.config import TrainConfig
    from guardrail_plugin.training.mix import data_fingerprint, read_pools

    name = folder.name.removeprefix("stage-")
    mend = "name another --out, or train it anew with --fresh"
    metrics: Mapping[str, object] = {}
    try:
        manifest = Manifest.read(folder)
        metrics = manifest.metrics
        trained = TrainConfig(**manifest.training)  # settings of a later version take their defaults
    except ConfigError:
        trained = None
    if trained != recipe:
        raise ConfigError(f"{folder} was trained by another recipe than {name!r} is now; {mend}")
    stopped_at = metrics.get(STOPPED_AT)
    if stopped_at is not None and stopped_at != max_steps:
        raise ConfigError(
            f"{folder} was stopped after {stopped_at} steps (--max-steps), so it is no stage to go on from; {mend}"
        )
    if DATA not in metrics:  # written by an earlier version
        _tell(f"{folder} does not say what data it was trained on; taken as it is")
    elif metrics[DATA] != data_fingerprint(recipe, read_pools(recipe, folders)):
        raise ConfigError(f"{folder} was trained on other data, or by another version, than is there now; {mend}")


def find_recipe(config: str) -> Path:
    """Return the file of a recipe: one of the library's by name, else a path.

    Raises:
        ConfigError: neither.
    """
    named = RECIPES / f"{config}.toml"
    if named.is_file():
        return named
    if Path(config).is_file():
        return Path(config)
    known = sorted(path.stem for path in RECIPES.glob("*.toml"))
    raise ConfigError(
        f"no recipe {config!r}{did_you_mean(config, known)}: known are {', '.join(known)}, or give a file"
    )


def _source(path: Path, folders: Sequence[Path]) -> tuple[Source, set[bool]]:
    """Return a file as a source of the input rail, and the labels that its rows carry."""
    from guardrail_plugin.training.config import Source
    from guardrail_plugin.training.rows import read_source, resolve

    # The artefact records the source: its name says enough, unless another file of that name would be found first.
    found = resolve(path.name, folders)
    source = Source(path=path.name if found.samefile(path) else str(path.resolve()))
    read = read_source(source, folders)
    if not read.examples:
        first = f" ({read.first})" if read.first else ""
        raise ConfigError(f'{path} has no usable row{first}: rows need "text" and "harmful": true or false')
    if read.unusable:
        _tell(f"{path}: {read.unusable} of {read.rows} rows unusable (first: {read.first})")
    return source, {example.harmful for example in read.examples}


def _tell(line: str) -> None:
    if os.environ.get("RANK", "0") == "0":  # under torchrun one process speaks for all
        Console(stderr=True, highlight=False).print(line, soft_wrap=True, markup=False)
