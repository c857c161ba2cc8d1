"""Laws of the objective."""

from __future__ import annotations

import math
from typing import Any

import pytest

torch = pytest.importorskip("torch")

from guardrail_plugin.dro import Anchor, AnchorConfig, Config  # noqa: E402
from guardrail_plugin.dro.basis import complete_basis, principal_components  # noqa: E402
from guardrail_plugin.dro.heads import Head  # noqa: E402
from guardrail_plugin.dro.identity import ModelIdentity  # noqa: E402
from guardrail_plugin.dro.objective import direction_loss, dro_loss, utility_loss  # noqa: E402
from guardrail_plugin.dro.vanilla import likelihood_loss  # noqa: E402

HARMLESS = torch.tensor([False, False, True, True, True])


@pytest.fixture
def states() -> Any:
    """(5, 12)."""
    return torch.randn(5, 12, generator=torch.Generator().manual_seed(1))


@pytest.fixture
def anchor() -> Anchor:
    """Four dimensions of twelve."""
    generator = torch.Generator().manual_seed(2)
    mean, components = principal_components(torch.randn(50, 12, generator=generator), 4)
    heads = [
        Head(torch.randn(4, generator=generator), torch.randn((), generator=generator), 1.0, 0.5) for _ in range(2)
    ]
    empty = torch.zeros(1, 2, 4)
    return Anchor(
        mean, components, *heads, empty, empty[..., 0], {"none": ""}, ("a",), ("b",), ModelIdentity(12), AnchorConfig()
    )


def test_nothing_changed_is_log_two_and_no_utility_loss(anchor: Anchor, states: Any) -> None:
    terms = dro_loss(states, states, HARMLESS, anchor=anchor, config=Config())
    assert float(terms.refusal) == pytest.approx(math.log(2))
    assert float(terms.harmfulness) == pytest.approx(math.log(2))
    assert float(terms.utility) == 0.0
    assert float(terms.total) == pytest.approx(math.log(2) * 1.01)


def test_a_change_inside_the_anchor_costs_no_utility(anchor: Anchor, states: Any) -> None:
    moved = states + torch.randn(5, 4, generator=torch.Generator().manual_seed(3)) @ anchor.components
    assert float(utility_loss(moved, states, anchor.components)) == pytest.approx(0.0, abs=1e-10)


def test_utility_is_the_mean_square_over_the_completed_basis(anchor: Anchor, states: Any) -> None:
    moved = states + torch.randn(5, 12, generator=torch.Generator().manual_seed(4))
    others = complete_basis(anchor.components)[4:]
    expected = ((moved - states) @ others.T).square().mean()
    assert float(utility_loss(moved, states, anchor.components)) == pytest.approx(float(expected), rel=1e-5)


@pytest.mark.parametrize(("harmless", "step", "falls"), [(False, -1.0, True), (False, 1.0, False), (True, 1.0, True)])
def test_harmful_queries_should_go_down_and_harmless_ones_up(harmless: bool, step: float, falls: bool) -> None:
    base = torch.tensor([0.3])
    loss = direction_loss(base + step, base, torch.tensor([harmless]))
    assert (float(loss) < math.log(2)) == falls


def test_a_weight_of_zero_removes_a_term(anchor: Anchor, states: Any) -> None:
    moved = states + 0.5
    whole = dro_loss(moved, states, HARMLESS, anchor=anchor, config=Config())
    for name, term in (("refusal", whole.refusal), ("beta", whole.harmfulness), ("gamma", whole.utility)):
        weight = getattr(Config(), name)
        without = dro_loss(moved, states, HARMLESS, anchor=anchor, config=Config(**{name: 0.0}))
        assert float(without.total) == pytest.approx(float(whole.total - weight * term), abs=1e-6)


def test_a_step_along_the_refusal_direction_lowers_the_loss_of_harmful_queries(anchor: Anchor, states: Any) -> None:
    direction = anchor.refusal.weight @ anchor.components  # (d,)
    harmful = torch.zeros(5, dtype=torch.bool)
    before = dro_loss(states, states, harmful, anchor=anchor, config=Config(beta=0.0))
    after = dro_loss(states - 0.3 * direction, states, harmful, anchor=anchor, config=Config(beta=0.0))
    assert float(after.total) < float(before.total)


def test_unlikelihood_falls_as_an_undesired_token_becomes_unlikely() -> None:
    desired = torch.tensor([True, False])
    bad = likelihood_loss(torch.log(torch.tensor([0.1, 0.9])), desired)
    good = likelihood_loss(torch.log(torch.tensor([0.9, 0.1])), desired)
    assert float(good) == pytest.approx(-math.log(0.9), rel=1e-4)
    assert float(bad) == pytest.approx(-math.log(0.1), rel=1e-4)
    assert bool(torch.isfinite(likelihood_loss(torch.zeros(2), desired)))  # p = 1 of an undesired token
