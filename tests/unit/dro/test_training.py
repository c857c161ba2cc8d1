"""Training: it lowers the loss, touches the soft prompt alone, repeats itself, and goes on where it was stopped."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

torch = pytest.importorskip("torch")

from guardrail_plugin.core.errors import ConfigError, SoftPromptMismatch  # noqa: E402
from guardrail_plugin.dro import (  # noqa: E402
    Anchor,
    AnchorConfig,
    Answer,
    ChatSplice,
    Config,
    SoftPrompt,
    answers_from,
    fit_anchor,
    soft_coordinates,
    train,
    train_vanilla,
    vanilla,
)
from guardrail_plugin.dro.loop import optimise  # noqa: E402
from guardrail_plugin.dro.soft_prompt import text_prompt  # noqa: E402
from guardrail_plugin.dro.trainer import DroProblem  # noqa: E402

INIT = "Be safe and kind."
SHORT_RUN = {"batch_size": 8, "epochs": 5, "learning_rate": 0.02}


@pytest.fixture(scope="module")
def anchor(llama: tuple[Any, Any]) -> Anchor:
    """An anchor on the tiny model; the queries' first words are harmful or harmless."""
    harmful = [f"burn the {thing} down" for thing in ("car", "bank", "lock", "safe", "door", "shop", "farm", "bus")]
    harmless = [f"paint my {thing} blue" for thing in ("car", "bank", "lock", "safe", "door", "shop", "farm", "bus")]
    compliance = torch.tensor([0.1] * 8 + [0.95] * 8).repeat(2, 1)
    config = AnchorConfig(folds=4, learning_rate=0.02, max_epochs=500)
    return fit_anchor(
        *llama, harmful, harmless, safety_prompts={"init": INIT}, config=config, compliance=compliance, quiet=True
    )


def _train(llama: tuple[Any, Any], anchor: Anchor, config: Config, **settings: Any) -> SoftPrompt:
    return train(*llama, anchor, init=INIT, config=config, quiet=True, **settings)


def test_it_lowers_the_loss_and_moves_queries_apart(llama: tuple[Any, Any], anchor: Anchor) -> None:
    soft = _train(llama, anchor, Config(**{**SHORT_RUN, "epochs": 15}))
    assert soft.info.history[-1]["loss"] < 0.8 * soft.info.history[0]["loss"]
    before = anchor.refusal.logit(anchor.coordinates[1])
    after = anchor.refusal.logit(soft_coordinates(*llama, anchor, soft=soft))
    harmful = ~anchor.is_harmless
    assert float((after - before)[harmful].mean()) < 0 < float((after - before)[~harmful].mean())


def test_the_artefact_says_what_it_is(llama: tuple[Any, Any], anchor: Anchor) -> None:
    config = Config(**SHORT_RUN, seed=5)
    info = _train(llama, anchor, config, base_model="tests/tiny").info
    assert (info.method, info.initial_text, info.seed, info.base_model) == ("dro", INIT, 5, "tests/tiny")
    assert Config(**info.config) == config
    assert info.metrics["steps"] == len(info.history) == 10
    assert set(info.history[0]) == {"loss", "refusal", "harmfulness", "utility"}


def test_same_seed_same_file(llama: tuple[Any, Any], anchor: Anchor, tmp_path: Path) -> None:
    for name, seed in (("a", 1), ("b", 1), ("c", 2)):
        _train(llama, anchor, Config(**SHORT_RUN, seed=seed)).save(tmp_path / name)
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()
    assert (tmp_path / "a").read_bytes() != (tmp_path / "c").read_bytes()


def test_the_base_is_frozen_and_left_as_it_was(llama: tuple[Any, Any], anchor: Anchor) -> None:
    model = llama[0]
    before = {name: parameter.detach().clone() for name, parameter in model.named_parameters()}
    model.train()
    try:
        _train(llama, anchor, Config(**SHORT_RUN))
        assert model.training
    finally:
        model.eval()
    assert all(parameter.requires_grad and parameter.grad is None for parameter in model.parameters())
    assert all(torch.equal(parameter, before[name]) for name, parameter in model.named_parameters())


def _problem(llama: tuple[Any, Any], anchor: Anchor, initial: Any, **settings: Any) -> DroProblem:
    config = Config(**settings)
    return DroProblem(llama[0], ChatSplice(llama[1]), anchor, initial=initial, config=config)


def test_the_gradient_reaches_the_soft_prompt_only(family: tuple[Any, Any, Any], anchor: Anchor) -> None:
    _, model, tokenizer = family
    initial = text_prompt(model, ChatSplice(tokenizer).content_ids(INIT))
    model.requires_grad_(False)
    soft = initial.clone().requires_grad_()
    loss, _ = _problem((model, tokenizer), anchor, initial).loss_of(soft, range(4))
    loss.backward()
    assert soft.grad is not None
    assert bool((soft.grad.abs().sum(1) > 0).all())  # every vector of it
    assert all(parameter.grad is None for parameter in model.parameters())


def test_sharing_the_prefix_changes_neither_loss_nor_gradient(family: tuple[Any, Any, Any], anchor: Anchor) -> None:
    _, model, tokenizer = family
    initial = text_prompt(model, ChatSplice(tokenizer).content_ids(INIT))
    results = []
    for share in (True, False):
        soft = (initial + 0.05 * torch.ones_like(initial)).requires_grad_()
        loss, _ = _problem((model, tokenizer), anchor, initial, share_prefix=share).loss_of(soft, range(10))
        loss.backward()
        results.append((loss.detach(), soft.grad))
    assert torch.allclose(results[0][0], results[1][0], atol=1e-5)
    assert torch.allclose(results[0][1], results[1][1], atol=1e-5)


def test_accumulation_gives_the_gradient_of_the_whole_batch(llama: tuple[Any, Any], anchor: Anchor) -> None:
    whole = _train(llama, anchor, Config(**SHORT_RUN))
    parts = _train(llama, anchor, Config(**SHORT_RUN, accumulation=3))
    assert torch.allclose(whole.vectors, parts.vectors, atol=1e-4)


def test_batches_need_not_divide_the_queries(llama: tuple[Any, Any], anchor: Anchor) -> None:
    soft = _train(llama, anchor, Config(batch_size=7, epochs=2))
    assert soft.info.metrics["steps"] == 6


def test_a_stopped_run_goes_on_to_the_same_end(llama: tuple[Any, Any], anchor: Anchor, tmp_path: Path) -> None:
    model, tokenizer = llama
    settings = {**SHORT_RUN, "checkpoint_every": 3, "validation_fraction": 0.25}
    config = Config(**settings)
    initial = text_prompt(model, ChatSplice(tokenizer).content_ids(INIT))
    problem = _problem(llama, anchor, initial, **settings)
    whole = optimise(initial, problem.loss_of, 16, config=config, quiet=True)
    calls = 0

    def dies(soft: Any, indices: Sequence[int]) -> Any:
        nonlocal calls
        calls += 1
        if calls == 10:
            raise KeyboardInterrupt
        return problem.loss_of(soft, indices)

    file = tmp_path / "checkpoint"
    with pytest.raises(KeyboardInterrupt):
        optimise(initial, dies, 16, config=config, checkpoint=file, quiet=True)
    assert file.is_file()
    rest = 0

    def counts(soft: Any, indices: Sequence[int]) -> Any:
        nonlocal rest
        rest += 1
        return problem.loss_of(soft, indices)

    resumed = optimise(initial, counts, 16, config=config, checkpoint=file, quiet=True)
    assert torch.equal(resumed.vectors, whole.vectors)
    assert resumed.history == whole.history
    assert rest < 15  # ten steps and five validations in all
    assert not file.exists()


def test_another_runs_checkpoint_is_not_resumed(tmp_path: Path) -> None:
    def loss_of(soft: Any, indices: Sequence[int]) -> Any:
        loss = soft.square().mean()
        return loss, {"loss": loss.item()}

    def stops(soft: Any, indices: Sequence[int]) -> Any:
        if file.is_file():
            raise KeyboardInterrupt
        return loss_of(soft, indices)

    file = tmp_path / "checkpoint"
    with pytest.raises(KeyboardInterrupt):
        optimise(torch.ones(2, 3), stops, 4, config=Config(checkpoint_every=1), checkpoint=file, quiet=True)
    other = Config(checkpoint_every=1, seed=9)
    trained = optimise(torch.ones(2, 3), loss_of, 4, config=other, checkpoint=file, quiet=True)
    assert len(trained.history) == trained.steps == 40


def test_early_stopping_keeps_the_best_prompt() -> None:
    def loss_of(soft: Any, indices: Sequence[int]) -> Any:
        held_out = not soft.requires_grad or not torch.is_grad_enabled()
        loss = (soft - 1.03).square().mean() if held_out else -soft.mean()  # training overshoots what validation wants
        return loss, {"loss": loss.item()}

    config = Config(epochs=30, patience=3, validation_fraction=0.5, learning_rate=0.01, weight_decay=0.0)
    trained = optimise(torch.ones(1, 1), loss_of, 10, config=config, quiet=True)
    assert trained.stopped_early
    assert trained.steps == 6  # the best after three, then three without a better one
    assert float(trained.vectors) == pytest.approx(1.03, abs=1e-3)


def test_an_anchor_of_another_model_is_refused(
    byte_tokenizer: Any, tiny_model: Any, templates: Any, anchor: Anchor
) -> None:
    tokenizer = byte_tokenizer(templates["llama-2"].template)
    with pytest.raises(SoftPromptMismatch, match="tokenizer_sha256"):
        train(tiny_model("Llama", len(tokenizer)), tokenizer, anchor, init=INIT, quiet=True)


@pytest.mark.parametrize("init", ["", "\n" * 0])
def test_an_empty_beginning_is_refused(llama: tuple[Any, Any], anchor: Anchor, init: str) -> None:
    with pytest.raises(ConfigError, match="at least one token"):
        train(*llama, anchor, init=init, quiet=True)


@pytest.mark.parametrize("settings", [{"epoch": 3}, {"learning_rate": 0}, {"validation_fraction": 1.0}])
def test_wrong_settings_are_refused(settings: dict[str, Any]) -> None:
    with pytest.raises(ConfigError):
        Config(**settings)


def test_settings_from_toml(tmp_path: Path) -> None:
    (tmp_path / "good.toml").write_text("beta = 0.0\nepochs = 2\n")
    assert Config.from_toml(tmp_path / "good.toml") == Config(beta=0.0, epochs=2)
    (tmp_path / "typo.toml").write_text("epoch = 2\n")
    with pytest.raises(ConfigError, match="did you mean 'epochs'"):
        Config.from_toml(tmp_path / "typo.toml")
    (tmp_path / "broken.toml").write_text("= 2\n")
    (tmp_path / "latin.toml").write_bytes(b"# caf\xe9\n")
    for name in ("broken.toml", "absent.toml", "latin.toml"):
        with pytest.raises(ConfigError):
            Config.from_toml(tmp_path / name)


def test_vanilla_prompt_tuning_makes_desired_answers_likelier(llama: tuple[Any, Any], tmp_path: Path) -> None:
    answers = [Answer(f"burn the {thing}", "No.", True) for thing in ("car", "bank", "door", "shop")]
    answers += [Answer(f"burn the {thing}", "Sure!", False) for thing in ("car", "bank", "door", "shop")]
    config = Config(batch_size=8, epochs=20, learning_rate=0.05)
    soft = train_vanilla(*llama, answers, init=INIT, config=config, undesired_weight=5.0, quiet=True)
    assert soft.info.method == "vanilla"
    assert soft.info.history[-1]["loss"] < 0.8 * soft.info.history[0]["loss"]
    again = train_vanilla(*llama, answers, init=INIT, config=config, undesired_weight=5.0, quiet=True)
    assert torch.equal(soft.vectors, again.vectors)


def test_vanilla_needs_answers(llama: tuple[Any, Any]) -> None:
    with pytest.raises(ConfigError, match="no answer"):
        train_vanilla(*llama, [], init=INIT, quiet=True)


def test_answers_are_sorted_into_desired_and_undesired() -> None:
    drawn = {"q": ["I cannot help.", "Sure, do this.", " ", "I can't say."]}
    harmful = answers_from(drawn, harmful=True)
    assert [(a.text, a.desired) for a in harmful] == [("I cannot help.", True), ("Sure, do this.", False)]
    harmless = answers_from(drawn, harmful=False, per_query=2)
    assert [(a.text, a.desired) for a in harmless] == [
        ("Sure, do this.", True),
        ("I cannot help.", False),
        ("I can't say.", False),
    ]
    assert "cannot" not in repr(harmful[0])


def test_parts_of_a_batch_of_answers_add_up_by_their_tokens(llama: tuple[Any, Any]) -> None:
    answers = [Answer("burn the car", "No. " * length, desired=True) for length in (1, 2, 9, 1)]
    answers += [Answer("paint the car", "I cannot.", desired=False)]
    runs = []
    for accumulation in (1, 2):
        config = Config(batch_size=5, epochs=3, learning_rate=0.05, accumulation=accumulation)
        runs.append(train_vanilla(*llama, answers, init=INIT, config=config, quiet=True))
    assert torch.allclose(runs[0].vectors, runs[1].vectors, atol=1e-4)
    assert runs[0].info.history[0]["loss"] == pytest.approx(runs[1].info.history[0]["loss"], rel=1e-5)


def test_another_models_checkpoint_is_not_resumed(llama: tuple[Any, Any], anchor: Anchor) -> None:
    """An adapter leaves the embeddings as they are, and a model from a folder has no name."""
    model, tokenizer = llama
    other = copy.deepcopy(model)
    with torch.no_grad():
        other.model.layers[1].mlp.up_proj.weight += 0.1
    splice = ChatSplice(tokenizer)
    initial = text_prompt(model, splice.content_ids(INIT))
    assert torch.equal(initial, text_prompt(other, splice.content_ids(INIT)))
    answers = [Answer("burn the car", "No.", desired=True)]
    of_dro = [_problem((one, tokenizer), anchor, initial).fingerprint for one in (model, other, copy.deepcopy(model))]
    of_vanilla = [
        vanilla._VanillaProblem(one, splice, answers, end_id=1, undesired_weight=1.0).fingerprint
        for one in (model, other, copy.deepcopy(model))
    ]
    for mine, others, mine_again in (of_dro, of_vanilla):
        assert mine == mine_again != others
