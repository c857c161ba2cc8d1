"""A pool and a guardian for as long as a command runs."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from guardrail_plugin.core.dtype import dtype_named
from guardrail_plugin.core.hazards import MLCOMMONS, Taxonomy

if TYPE_CHECKING:
    from guardrail_plugin.core.policy import Policy
    from guardrail_plugin.guardian.protocol import GuardianProtocol
    from guardrail_plugin.pool import InferencePool


@dataclass(frozen=True, slots=True)
class Session:
    """What a command works with."""

    guardian: GuardianProtocol
    pool: InferencePool
    policy: Policy | None = None
    taxonomy: Taxonomy = MLCOMMONS

    def hazard(self, code: object) -> str:
        """Return a hazard as a person reads it: name and code."""
        return f"{self.taxonomy[code].name} ({code})" if isinstance(code, str) and code in self.taxonomy else str(code)


@contextmanager
def open_session(
    guardian: str | None, *, policy: Path | None = None, device: str | None = None, dtype: str = "auto"
) -> Iterator[Session]:
    """Open a pool, put a guardian on it and read the policy; close the pool at the end.

    Raises:
        GuardrailError: weights, an extra or a sound policy file are missing.
    """
    from guardrail_plugin.core.policy import Policy
    from guardrail_plugin.guardian.guardian import Guardian
    from guardrail_plugin.guardian.protocol import taxonomy_of
    from guardrail_plugin.pool import InferencePool

    # A command has nothing better to do than to wait for room.
    with InferencePool(devices=None if device is None else [device], on_full="wait") as pool:
        loaded = Guardian.named(guardian, pool=pool, dtype=dtype_named(dtype))
        taxonomy = taxonomy_of(loaded)
        rules = None if policy is None else Policy.from_toml(policy, taxonomy=taxonomy)
        try:
            yield Session(loaded, pool, rules, taxonomy)
        except BaseException:
            pool.close(drain_s=0.0)  # whatever is still queued, nobody will read
            raise
