from __future__ import annotations

import copy
import pickle
from collections.abc import Callable

import pytest

from guardrail_plugin.core import errors
from guardrail_plugin.core.conversation import Check, Message
from guardrail_plugin.core.errors import ConfigError
from guardrail_plugin.core.hazards import MLCOMMONS, Hazard, Taxonomy
from guardrail_plugin.core.verdict import Verdict

TREE = {
    "ConfigError": ("GuardrailError", "ValueError"),
    "InputError": ("GuardrailError", "ValueError"),
    "MissingDependencyError": ("GuardrailError", "ImportError"),
    "BlockedError": ("GuardrailError",),
    "ChainError": ("GuardrailError",),
    "GuardianError": ("GuardrailError",),
    "VerdictParseError": ("GuardianError",),
    "GuardianTimeout": ("GuardianError", "TimeoutError"),
    "ModelNotFoundError": ("GuardrailError", "FileNotFoundError"),
    "PoolError": ("GuardrailError",),
    "PoolOverloaded": ("PoolError",),
    "PoolClosed": ("PoolError",),
    "InferenceError": ("PoolError",),
    "ReplicaDead": ("PoolError",),
    "SoftPromptMismatch": ("GuardrailError",),
}


def test_the_error_tree_is_the_documented_one() -> None:
    found = {
        name: tuple(base.__name__ for base in value.__bases__)
        for name, value in vars(errors).items()
        if isinstance(value, type) and issubclass(value, errors.GuardrailError) and name != "GuardrailError"
    }
    assert found == TREE


def test_the_taxonomy_is_mlcommons_and_prompt_injection() -> None:
    assert MLCOMMONS.codes == (*(f"S{i}" for i in range(1, 15)), "PI")
    assert MLCOMMONS["S9"].name == "Indiscriminate Weapons"
    assert all(hazard.definition.endswith(".") for hazard in MLCOMMONS)


@pytest.mark.parametrize(
    "hazards",
    [[], [Hazard("A", "a", "."), Hazard("A", "b", ".")], [Hazard("safe", "s", ".")], [Hazard(" ", "s", ".")]],
)
def test_a_taxonomy_refuses_bad_codes(hazards: list[Hazard]) -> None:
    with pytest.raises(ConfigError):
        Taxonomy.of(hazards)


@pytest.mark.parametrize("risk", [-0.01, 1.01, float("nan"), float("inf")])
def test_a_risk_is_a_probability(risk: float) -> None:
    with pytest.raises(ValueError, match="risk is a probability"):
        Verdict(harmful=True, risk=risk, threshold=0.5, hazards={}, hazard=None, rail="input", guardian_id="x")


def test_a_verdict_survives_pickling_and_becomes_plain_json() -> None:
    verdict = Verdict(
        harmful=True, risk=0.75, threshold=0.5, hazards={"S1": 0.75}, hazard="S1", rail="input", guardian_id="x"
    )
    assert pickle.loads(pickle.dumps(verdict)) == verdict  # noqa: S301 - our own bytes
    assert verdict.as_dict()["hazards"] == {"S1": 0.75}


RISKY = Verdict(harmful=True, risk=0.7, threshold=0.5, hazards={"S1": 0.7}, hazard="S1", rail="input", guardian_id="x")


@pytest.mark.parametrize(
    "error",
    [
        errors.BlockedError(RISKY, rail="input"),
        errors.ChainError("ValueError", place="mine:3"),
        errors.GuardianTimeout(2.5),
        errors.MissingDependencyError("torch", extra="local"),
        errors.ModelNotFoundError("nowhere"),
        errors.PoolOverloaded("full", retry_after_s=1.5),
        errors.SoftPromptMismatch("width", expected=3, got=4),
        ConfigError("wrong"),
    ],
    ids=lambda error: type(error).__name__,
)
def test_errors_survive_pickling_and_copying(error: errors.GuardrailError) -> None:
    for back in (pickle.loads(pickle.dumps(error)), copy.copy(error)):  # noqa: S301 - our own bytes
        assert type(back) is type(error)
        assert (str(back), vars(back)) == (str(error), vars(error))


@pytest.mark.parametrize(
    ("made", "error", "message"),
    [
        (lambda: Check(b"x"), errors.InputError, "checks text, got bytes"),
        (lambda: Check("x", rail="inputs"), ConfigError, r"unknown rail 'inputs' \(did you mean 'input'\?\)"),
        (lambda: Check("x", context=["secret"]), ConfigError, r"tuple of Message\(role, text\), got str in it"),
    ],
)
def test_what_is_no_check_is_told_at_once(made: Callable[[], Check], error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message) as told:
        made()
    assert "secret" not in str(told.value)


@pytest.mark.parametrize(("word", "meant"), [("s2", "S2"), ("S99", "S9"), ("pi", "PI"), ("zzzz", None)])
def test_a_code_that_nobody_knows_is_answered_with_the_nearest(word: str, meant: str | None) -> None:
    assert errors.did_you_mean(word, MLCOMMONS.codes) == (f" (did you mean {meant!r}?)" if meant else "")


def test_repr_shows_no_text() -> None:
    secret = "my secret words"
    check = Check(secret, query=secret, context=(Message("user", secret),))
    assert "secret" not in repr(check)
    assert "secret" not in repr(check.context[0])
    assert "secret" not in str(errors.BlockedError(None, rail="input"))
