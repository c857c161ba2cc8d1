"""The error tree. Errors carry fields, never the text that was checked."""

from __future__ import annotations

from collections.abc import Iterable
from difflib import get_close_matches
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from guardrail_plugin.core.verdict import Rail, Verdict

# GuardrailError
# ├─ ConfigError(ValueError)                 the caller's mistake, raised at construction, names the value
# ├─ InputError(ValueError)                  this input cannot be checked (no text in it, not a supported type)
# ├─ MissingDependencyError(ImportError)     names the extra to install
# ├─ BlockedError                            only with on_block="raise"
# ├─ ChainError                              the chain behind an output rail failed, and its error could quote the model
# ├─ GuardianError                           no verdict could be had: the policy's on_failure applies
# │   ├─ VerdictParseError
# │   └─ GuardianTimeout(TimeoutError)
# ├─ ModelNotFoundError                      no weights where we looked; tells where and how to get them
# ├─ PoolError
# │   ├─ PoolOverloaded                      retryable
# │   ├─ PoolClosed
# │   ├─ InferenceError                      this request failed, others did not
# │   └─ ReplicaDead                         the engine is gone; every waiter is told
# └─ SoftPromptMismatch                      model, revision, width or tokenizer differs


class GuardrailError(Exception):
    """Root of every error that this library raises on purpose. Survives pickling: pools of processes need that."""

    def __reduce__(self) -> tuple[object, ...]:
        """Have it made anew from its message and its fields: what its class is built with is not what it keeps."""
        return _made_anew, (type(self), self.args, dict(vars(self)))


class ConfigError(GuardrailError, ValueError):
    """A setting is wrong. Raised at construction; names the value and, where one is near, the right word."""


class InputError(GuardrailError, ValueError):
    """This input cannot be checked: it holds no text, or it is of a type that no rail can read."""


class MissingDependencyError(GuardrailError, ImportError):
    """An optional dependency is absent.

    Attributes:
        package: the module that could not be imported.
        extra: the extra of this distribution that brings it.
    """

    def __init__(self, package: str, *, extra: str) -> None:
        self.package = package
        self.extra = extra
        super().__init__(f"{package} is not installed. Run: pip install 'guardrail-plugin[{extra}]'")


class BlockedError(GuardrailError):
    """A rail blocked this call and the policy says ``on_block="raise"``."""

    def __init__(self, verdict: Verdict | None, *, rail: Rail) -> None:
        self.verdict = verdict
        self.rail = rail
        hazard = verdict.hazard if verdict is not None else None
        super().__init__(f"blocked by the {rail} rail" + (f": hazard {hazard}" if hazard else ""))


class ChainError(GuardrailError):
    """The chain behind an output rail failed. Its own error is withheld: it may quote an answer that nobody has judged.

    Attributes:
        kind: the type of the chain's error.
        place: the module and line that raised it.
    """

    def __init__(self, kind: str, *, place: str, advice: str | None = None) -> None:
        self.kind = kind
        self.place = place
        why = advice or "its message may quote the model and is withheld"
        super().__init__(f"the guarded chain raised {kind} at {place}; {why}")


class GuardianError(GuardrailError):
    """No verdict could be had. The policy's ``on_failure`` decides what happens to the call."""


class VerdictParseError(GuardianError):
    """The guardian answered, and the answer is not a verdict."""


class GuardianTimeout(GuardianError, TimeoutError):
    """No verdict within ``timeout_s``."""

    def __init__(self, timeout_s: float) -> None:
        self.timeout_s = timeout_s
        super().__init__(f"the guardian gave no verdict within {timeout_s:g} s")


class ModelNotFoundError(GuardrailError, FileNotFoundError):
    """Model weights are at none of the places that were looked at. The message lists them and the ways to get them."""


class PoolError(GuardrailError):
    """Something about the shared inference pool, not about the text."""


class PoolOverloaded(PoolError):
    """The queue is full, or the wait would outlast the deadline. Retry later.

    Attributes:
        retry_after_s: the pool's estimate of when room will be free, in seconds.
    """

    def __init__(self, reason: str, *, retry_after_s: float) -> None:
        self.retry_after_s = retry_after_s
        super().__init__(f"{reason}; retry in {retry_after_s:.2f} s")


class PoolClosed(PoolError):
    """The pool was never entered, is draining, or is closed."""


class InferenceError(PoolError):
    """The model failed on this one request. Requests that shared its batch were answered."""


class ReplicaDead(PoolError):
    """The replica that held this request is gone. Retryable while the pool has or can make another."""


class SoftPromptMismatch(GuardrailError):
    """A soft prompt does not belong to this model.

    Attributes:
        field: what differs (``base_model``, ``revision``, ``width``, ``tokenizer_sha256``).
        expected: what the soft prompt was trained for.
        got: what the model has.
    """

    def __init__(self, field: str, *, expected: object, got: object) -> None:
        self.field = field
        self.expected = expected
        self.got = got
        super().__init__(f"soft prompt and model differ in {field}: expected {expected!r}, got {got!r}")


def _made_anew(kind: type[GuardrailError], args: tuple[object, ...], fields: dict[str, object]) -> GuardrailError:
    error = kind.__new__(kind)
    error.args = args
    error.__dict__.update(fields)
    return error


def did_you_mean(word: str, known: Iterable[str]) -> str:
    """Return ``" (did you mean 'x'?)"`` for the nearest known word, or an empty string. Case does not count."""
    spelled = {one.lower(): one for one in known}
    near = get_close_matches(word.lower(), list(spelled), n=1, cutoff=0.6)
    return f" (did you mean {spelled[near[0]]!r}?)" if near else ""
