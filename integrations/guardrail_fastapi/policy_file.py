"""The policy that is in force: fixed, or a file that is read again whenever it changes."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterable, Callable
from contextlib import suppress
from dataclasses import dataclass, field
from hashlib import sha256
from pathlib import Path

from guardrail_plugin import MLCOMMONS, ConfigError, MissingDependencyError, Policy, Taxonomy

logger = logging.getLogger("guardrail_plugin.policy")

_DEBOUNCE_MS = 200
"""Editors write a file in several steps; a change is read once these are over."""

_POLL_S = 5.0
"""How often a file is read whatever the file system tells."""

_NOTHING = sha256(b"").hexdigest()[:12]


@dataclass(frozen=True, slots=True)
class PolicyState:
    """What is in force.

    Attributes:
        policy: the last one that could be read.
        sha256: of the file's bytes, first 12 hex digits; empty without a file.
        reloads: how often a changed file has taken force.
        error: why the file, as it is now, is not in force; ``None``: it is.
    """

    policy: Policy = field(default_factory=Policy)
    sha256: str = ""
    reloads: int = 0
    error: str | None = None


class PolicySource:
    """Hands out the policy in force. Readers take ``policy`` once per request: it is swapped whole.

    A file that cannot be read, is not TOML or breaks a rule changes nothing: the policy before it stays in force, and
    ``state.error`` and the log say so until the file is sound again. So does one that has become empty, as files are
    that are being written; for the default policy, leave a comment in it.

    Raises:
        ConfigError: at construction, the file is not sound, or the policy names a hazard that the guardian does not.
    """

    def __init__(
        self,
        source: Policy | Path | None = None,
        *,
        taxonomy: Taxonomy = MLCOMMONS,
        on_change: Callable[[PolicyState], None] | None = None,
    ) -> None:
        self.path = source if isinstance(source, Path) else None
        self._taxonomy = taxonomy
        self._on_change = on_change
        if self.path is None:
            given = source if isinstance(source, Policy) else Policy()
            self.state = PolicyState(given.check_codes(taxonomy))
        else:
            policy, digest = self._read(self.path)
            self.state = PolicyState(policy, digest)

    @property
    def policy(self) -> Policy:
        """The policy in force."""
        return self.state.policy

    def reload(self) -> bool:
        """Read the file again. Returns whether another policy is in force now. Never raises for the file's sake."""
        if self.path is None:
            return False
        before = self.state
        try:
            policy, digest = self._read(self.path)
            if digest == _NOTHING and before.sha256 != _NOTHING:
                raise ConfigError(f"the policy file {self.path} is empty; with a comment it means the default policy")
        except ConfigError as error:
            if str(error) != before.error:
                logger.error("the policy file was not taken, the one before it stays in force: %s", error)
                self._swap(PolicyState(before.policy, before.sha256, before.reloads, str(error)))
            return False
        if digest == before.sha256 and before.error is None:
            return False
        changed = digest != before.sha256
        self._swap(PolicyState(policy, digest, before.reloads + changed))
        logger.info("policy %s (%s) is in force", policy.version, digest)
        return changed

    async def watch(self, changes: AsyncIterable[object] | None = None) -> None:
        """Reload whenever the file changes, until cancelled. Returns at once where there is no file.

        The folder is watched, not the file: editors and Kubernetes replace files. Beside that the file is read every
        few seconds, for what nobody tells of: a link to a folder that leads elsewhere now, a network's file system.
        Where it cannot be watched at all (no watches left, no ``watchfiles``) the log says so.

        Args:
            changes: what tells of changes; ``None``: the file system.

        Cancellation: passes.
        """
        if self.path is None:
            return
        try:
            async for _ in changes if changes is not None else _changes(self.path.resolve().parent, self.path.parent):
                await self._again()
            return
        except Exception as error:
            told = str(error) if isinstance(error, MissingDependencyError) else type(error).__name__
            logger.error("the policy file cannot be watched (%s); it is read every %g s", told, _POLL_S)
        while True:
            await self._again()
            await asyncio.sleep(_POLL_S)

    async def _again(self) -> None:
        try:
            await asyncio.to_thread(self.reload)
        except Exception as error:
            # Nobody awaits the watch: it goes on whatever a listener raises.
            logger.error("the policy file was not taken: %s", type(error).__name__)

    def _swap(self, state: PolicyState) -> None:
        self.state = state
        if self._on_change is not None:
            self._on_change(state)

    def _read(self, path: Path) -> tuple[Policy, str]:
        try:
            content = path.read_bytes()
            text = content.decode("utf-8")
        except OSError as error:
            raise ConfigError(f"cannot read the policy file {path}: {error.strerror}") from None
        except UnicodeDecodeError:
            raise ConfigError(f"the policy file {path} is not UTF-8") from None
        return Policy.from_toml(text, taxonomy=self._taxonomy), sha256(content).hexdigest()[:12]


def _changes(*folders: Path) -> AsyncIterable[object]:
    try:
        from watchfiles import awatch
    except ImportError as error:
        raise MissingDependencyError(error.name or "watchfiles", extra="fastapi") from None
    # The folders of a link and of its target: either may be what changes.
    return awatch(
        *dict.fromkeys(folders),
        debounce=_DEBOUNCE_MS,
        rust_timeout=int(_POLL_S * 1000),
        yield_on_timeout=True,
        recursive=False,
    )


async def end(task: asyncio.Task[None]) -> None:
    """Cancel a background task and await its end."""
    task.cancel()
    with suppress(asyncio.CancelledError):
        await task
