"""Budgets and circuits: pure records with injected time."""

from __future__ import annotations

import pytest

from guardrail_plugin.core.errors import GuardianTimeout, InferenceError, PoolOverloaded, ReplicaDead
from guardrail_plugin.pool.health import (
    FIRST_BACKOFF_S,
    LAST_BACKOFF_S,
    REGROW_AFTER,
    TRIP_AFTER,
    Circuit,
    TokenBudget,
    is_out_of_memory,
    kills_replica,
)
from guardrail_plugin.testing.replicas import OutOfMemoryError


class CudaOutOfMemory(OutOfMemoryError):
    """A subclass: found through its bases."""


@pytest.mark.parametrize(
    ("error", "memory", "dead"),
    [
        (MemoryError(), True, False),
        (OutOfMemoryError("x"), True, False),
        (CudaOutOfMemory("x"), True, False),
        (RuntimeError("CUDA error: Out of Memory"), True, False),
        (RuntimeError("shape mismatch"), False, False),
        (ValueError("out of memory, says the user's text"), False, False),
        (ReplicaDead("gone"), False, True),
        (SystemExit(1), False, True),
        (KeyboardInterrupt(), False, True),
        (GeneratorExit(), False, True),
        (InferenceError("no"), False, False),
        (GuardianTimeout(1.0), False, False),
        (PoolOverloaded("full", retry_after_s=1.0), False, False),
    ],
)
def test_errors_are_told_apart(error: BaseException, memory: bool, dead: bool) -> None:
    assert is_out_of_memory(error) is memory
    assert kills_replica(error) is dead


def test_a_budget_halves_what_did_not_fit_and_grows_back_slowly() -> None:
    budget = TokenBudget(1000)
    budget.shrink(600)
    assert budget.tokens == 300
    for _ in range(REGROW_AFTER - 1):
        budget.fitted()
    assert budget.tokens == 300
    budget.fitted()
    assert 300 < budget.tokens <= 600
    for _ in range(REGROW_AFTER * 10):
        budget.fitted()
    assert budget.tokens == 1000, "and never beyond where it began"


def test_a_budget_never_reaches_zero() -> None:
    budget = TokenBudget(4)
    for _ in range(10):
        budget.shrink(1)
    assert budget.tokens == 1
    for _ in range(REGROW_AFTER * 10):
        budget.fitted()
    assert budget.tokens == 4


def test_a_circuit_opens_for_a_time_that_doubles_up_to_a_bound() -> None:
    circuit = Circuit()
    now = 100.0
    pauses = []
    for _ in range(12):
        circuit.failed(OSError("no weights"), now)
        assert circuit.open_until is not None
        assert circuit.is_open(now)
        pauses.append(circuit.open_until - now)
        now = circuit.open_until
        assert not circuit.is_open(now), "one try is let through"
    assert pauses[:3] == pytest.approx([FIRST_BACKOFF_S, 2 * FIRST_BACKOFF_S, 4 * FIRST_BACKOFF_S])
    assert pauses[-1] == LAST_BACKOFF_S
    circuit.answered()
    circuit.failed(OSError("no weights"), now)
    assert circuit.open_until == pytest.approx(now + FIRST_BACKOFF_S), "an answer forgives all"


def test_a_circuit_counts_deaths_in_a_row() -> None:
    circuit = Circuit()
    for _ in range(TRIP_AFTER - 1):
        circuit.died(SystemExit(), 0.0)
    assert not circuit.is_open(0.0)
    circuit.answered()
    for _ in range(TRIP_AFTER - 1):
        circuit.died(SystemExit(), 0.0)
    assert not circuit.is_open(0.0)
    circuit.died(SystemExit(), 0.0)
    assert circuit.is_open(0.0)
