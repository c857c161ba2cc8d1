"""Laws of the anchor: the basis, the heads, the refusals to go on, the file."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

torch = pytest.importorskip("torch")

from guardrail_plugin.core.errors import ConfigError  # noqa: E402
from guardrail_plugin.dro import Anchor, AnchorConfig, Journal, Sampling, fit_anchor  # noqa: E402
from guardrail_plugin.dro.basis import complete_basis, principal_components  # noqa: E402
from guardrail_plugin.dro.heads import fit_head, fold_of_query  # noqa: E402

Queries = tuple[tuple[str, ...], tuple[str, ...]]
FAST = AnchorConfig(folds=3, learning_rate=0.02, max_epochs=300, min_harm_accuracy=0.0)


def _compliance(queries: Queries, conditions: int = 2) -> Any:
    """Harmful queries are mostly refused, harmless ones mostly answered."""
    row = torch.tensor([0.2] * len(queries[0]) + [0.9] * len(queries[1]))
    return row.repeat(conditions, 1)


def _fit(llama: tuple[Any, Any], queries: Queries, **changes: Any) -> Anchor:
    settings: dict[str, Any] = {"safety_prompts": ["short"], "config": FAST, "quiet": True}
    settings["compliance"] = _compliance(queries)
    return fit_anchor(*llama, *queries, **{**settings, **changes})


@pytest.mark.parametrize(("rows", "width", "dims"), [(40, 12, 4), (10, 30, 4), (9, 9, 1)])
def test_the_basis_is_orthonormal_and_complete(rows: int, width: int, dims: int) -> None:
    states = torch.randn(rows, width, generator=torch.Generator().manual_seed(0))
    mean, components = principal_components(states, dims)
    basis = complete_basis(components)
    assert torch.allclose(mean, states.mean(0))
    assert basis.shape == (width, width)
    assert torch.allclose(basis @ basis.T, torch.eye(width), atol=1e-5)
    assert torch.equal(basis[:dims], components)


def test_components_come_in_the_order_of_their_variance() -> None:
    generator = torch.Generator().manual_seed(0)
    states = torch.randn(200, 6, generator=generator) * torch.tensor([1.0, 5.0, 0.1, 3.0, 0.1, 0.1])
    _, components = principal_components(states, 3)
    assert components.abs().argmax(1).tolist() == [1, 3, 0]
    assert bool((components.gather(1, components.abs().argmax(1, keepdim=True)) > 0).all())  # the sign is fixed


def test_too_many_dimensions_are_refused() -> None:
    with pytest.raises(ConfigError, match="dimensions"):
        principal_components(torch.randn(4, 8), 4)


def test_a_head_separates_what_a_line_separates() -> None:
    generator = torch.Generator().manual_seed(0)
    points = torch.randn(60, 4, generator=generator)
    targets = (points[:, 1] > 0).float()
    head = fit_head(points, targets, torch.arange(60) % 3, config=FAST)
    assert head.accuracy > 0.9
    assert int(head.weight.abs().argmax()) == 1
    assert head.logit(points).shape == (60,)


def test_held_out_accuracy_on_noise_is_a_coins() -> None:
    generator = torch.Generator().manual_seed(0)
    points, targets = torch.randn(400, 4, generator=generator), (torch.rand(400, generator=generator) > 0.5).float()
    assert 0.35 < fit_head(points, targets, torch.arange(400) % 10, config=FAST).accuracy < 0.65


def test_folds_hold_both_kinds_of_query() -> None:
    harmful = torch.arange(30) < 12
    folds = fold_of_query(harmful, FAST)
    for fold in range(FAST.folds):
        assert int((harmful & (folds == fold)).sum()) == 4
        assert int((~harmful & (folds == fold)).sum()) == 6


def test_fit_reads_every_query_under_every_condition(llama: tuple[Any, Any], queries: Queries) -> None:
    anchor = _fit(llama, queries)
    assert list(anchor.conditions) == ["none", "short"]
    assert anchor.coordinates.shape == (2, 24, 4)
    assert anchor.queries == (*queries[0], *queries[1])
    assert anchor.is_harmless.tolist() == [False] * 12 + [True] * 12
    assert anchor.report()["refused_harmful"] == pytest.approx(0.8)
    assert 0 <= anchor.harmfulness.accuracy <= 1


def test_fit_twice_is_the_same(llama: tuple[Any, Any], queries: Queries) -> None:
    first, second = _fit(llama, queries), _fit(llama, queries)
    assert torch.equal(first.components, second.components)
    assert torch.equal(first.refusal.weight, second.refusal.weight)


@pytest.mark.parametrize("layer", [1, 2, -2])
def test_any_layer_can_be_read(llama: tuple[Any, Any], queries: Queries, layer: int) -> None:
    config = AnchorConfig(**{**FAST.model_dump(), "layer": layer, "dims": 3})
    assert _fit(llama, queries, config=config).components.shape == (3, 32)


def test_a_layer_that_is_not_there_is_refused(llama: tuple[Any, Any], queries: Queries) -> None:
    with pytest.raises(ConfigError, match="layer 9"):
        _fit(llama, queries, config=AnchorConfig(**{**FAST.model_dump(), "layer": 9}))


@pytest.mark.parametrize(("share", "word"), [(1.0, "almost never"), (0.0, "almost always")])
def test_a_model_that_never_or_always_refuses_is_refused(
    llama: tuple[Any, Any], queries: Queries, share: float, word: str
) -> None:
    with pytest.raises(ConfigError, match=word) as caught:
        _fit(llama, queries, compliance=torch.full((2, 24), share))
    assert "nothing to learn" in str(caught.value)


def test_indistinguishable_queries_are_refused(llama: tuple[Any, Any]) -> None:
    same = tuple(f"query {i}" for i in range(12))
    config = AnchorConfig(**{**FAST.model_dump(), "min_harm_accuracy": 0.9})
    with pytest.raises(ConfigError, match="harmfulness head has nothing to learn"):
        _fit(llama, (same, same), config=config)


@pytest.mark.parametrize("prompts", ["short", ["short", "short"], {"mine": "  "}])
def test_unusable_safety_prompts_are_refused(llama: tuple[Any, Any], queries: Queries, prompts: Any) -> None:
    with pytest.raises(ConfigError):
        _fit(llama, queries, safety_prompts=prompts)


def test_too_few_queries_are_refused(llama: tuple[Any, Any]) -> None:
    with pytest.raises(ConfigError, match="folds"):
        fit_anchor(*llama, ["a"], ["b"], safety_prompts=["short"], config=FAST, quiet=True)


def test_drawn_responses_are_kept_and_supplied_again(llama: tuple[Any, Any], queries: Queries, tmp_path: Path) -> None:
    sampling = Sampling(samples=3, max_new_tokens=4)
    config = AnchorConfig(**{**FAST.model_dump(), "sampling": sampling})
    seen: list[str] = []

    def refuses(text: str) -> bool:
        seen.append(text)
        return len(seen) % 3 == 0

    settings: dict[str, Any] = {"compliance": None, "config": config, "is_refusal": refuses}
    file = tmp_path / "drawn.jsonl"
    first = _fit(llama, queries, journal=Journal(file), **settings)
    assert float(first.compliance.mean()) == pytest.approx(2 / 3)
    assert len(file.read_text().splitlines()) == 48
    file.write_bytes(file.read_bytes()[:-10])  # killed while it wrote
    drawn, seen[:] = list(seen), []
    _fit(llama, queries, journal=Journal(file), **settings)
    assert seen == drawn


def test_a_file_that_is_no_journal_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "other.jsonl"
    file.write_text('{"text": "hello"}\n')
    with pytest.raises(ConfigError, match="drawn responses"):
        Journal(file)


def test_save_and_load(llama: tuple[Any, Any], queries: Queries, tmp_path: Path) -> None:
    anchor = _fit(llama, queries, base_model="tests/tiny")
    anchor.save(tmp_path / "a.safetensors")
    loaded = Anchor.load(tmp_path / "a.safetensors")
    for name in ("mean", "components", "coordinates", "compliance"):
        assert torch.equal(getattr(loaded, name), getattr(anchor, name))
    assert loaded.report() == anchor.report()
    assert (loaded.queries, loaded.conditions, loaded.identity, loaded.config) == (
        anchor.queries,
        anchor.conditions,
        anchor.identity,
        anchor.config,
    )
    loaded.save(tmp_path / "b.safetensors")
    assert (tmp_path / "a.safetensors").read_bytes() == (tmp_path / "b.safetensors").read_bytes()


def test_other_files_are_no_anchors(tmp_path: Path) -> None:
    (tmp_path / "text").write_text("hello")
    for path in (tmp_path / "text", tmp_path / "absent"):
        with pytest.raises(ConfigError):
            Anchor.load(path)


def test_repr_shows_no_query(llama: tuple[Any, Any], queries: Queries) -> None:
    assert queries[0][0] not in repr(_fit(llama, queries))


@pytest.mark.parametrize("settings", [{"dimensions": 3}, {"dims": 0}, {"folds": 1}, {"sampling": {"top_p": 0}}])
def test_wrong_settings_are_refused(settings: dict[str, Any]) -> None:
    with pytest.raises(ConfigError):
        AnchorConfig(**settings)


def test_a_folder_is_no_anchor(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="cannot read"):
        Anchor.load(tmp_path)
