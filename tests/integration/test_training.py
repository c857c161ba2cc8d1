"""Training end to end on a tiny random base: same seed, same artefact; resume; load and judge."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

torch = pytest.importorskip("torch")

from safetensors.torch import load_file  # noqa: E402

from guardrail_plugin import Guardian, InferencePool  # noqa: E402
from guardrail_plugin.assembly import export_merged  # noqa: E402
from guardrail_plugin.core.errors import ConfigError  # noqa: E402
from guardrail_plugin.guardian.manifest import ADAPTER_FILE, Manifest  # noqa: E402
from guardrail_plugin.training.config import Source, TrainConfig  # noqa: E402
from guardrail_plugin.training.loop import train  # noqa: E402
from guardrail_plugin.training.mix import data_fingerprint, read_pools  # noqa: E402


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Texts that two letters tell apart."""
    folder = tmp_path_factory.mktemp("data")
    rows = [{"text": f"zz {i} zz", "harmful": True, "category": "Illegal Activity / Drug"} for i in range(120)]
    rows += [{"text": f"aa {i} aa", "harmful": False, "category": None} for i in range(120)]
    (folder / "catqa.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return folder


@pytest.fixture(scope="module")
def config(tiny_base: Path) -> TrainConfig:
    return TrainConfig(
        base=str(tiny_base),
        sources=(Source(path="catqa.jsonl", licence="own"),),
        learning_rate=1e-2,
        token_learning_rate=2e-2,
        batch_tokens=256,
        epochs=4,
        response_share=0.2,
        validation_fraction=0.15,
        threads=1,
    )


@pytest.fixture(scope="module")
def trained(config: TrainConfig, data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("trained")
    result = train(config, data_folders=[data], out=out, device="cpu", quiet=True)
    assert result.validation.auroc["input"] > 0.95
    return out


def test_same_seed_same_bytes(config: TrainConfig, data: Path, trained: Path, tmp_path: Path) -> None:
    train(config, data_folders=[data], out=tmp_path / trained.name, device="cpu", quiet=True)
    assert (tmp_path / trained.name / ADAPTER_FILE).read_bytes() == (trained / ADAPTER_FILE).read_bytes()
    assert (tmp_path / trained.name / "guardian.json").read_bytes() == (trained / "guardian.json").read_bytes()


def test_an_interrupted_run_resumes_to_the_same_weights(
    config: TrainConfig, data: Path, trained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from guardrail_plugin.training import loop

    steps = 0
    original = loop._Run.step

    def stop_in_the_middle(self: loop._Run, *args: object) -> tuple[float, float]:
        nonlocal steps
        steps += 1
        if steps == 7:
            raise KeyboardInterrupt
        return original(self, *args)  # type: ignore[arg-type]

    out = tmp_path / trained.name
    with monkeypatch.context() as patch:
        patch.setattr(loop._Run, "step", stop_in_the_middle)
        with pytest.raises(KeyboardInterrupt):
            train(config, data_folders=[data], out=out, device="cpu", checkpoint_every_s=0, quiet=True)
    assert (out / "checkpoint.safetensors").is_file()
    train(config, data_folders=[data], out=out, device="cpu", quiet=True)
    assert (out / ADAPTER_FILE).read_bytes() == (trained / ADAPTER_FILE).read_bytes()
    assert not (out / "checkpoint.safetensors").exists()


def test_the_artefact_says_what_it_is(config: TrainConfig, trained: Path, tiny_base: Path) -> None:
    from safetensors import safe_open

    manifest = Manifest.read(trained)
    assert manifest.base_model == str(tiny_base)
    assert TrainConfig(**manifest.training) == config
    assert manifest.sources == ({"path": "catqa.jsonl", "rail": "input", "licence": "own"},)
    with safe_open(trained / ADAPTER_FILE, "pt") as adapter:
        metadata = adapter.metadata()
    assert metadata["base_model"] == str(tiny_base)
    assert json.loads(metadata["config"]) == manifest.training


def test_what_was_trained_is_what_judges(trained: Path) -> None:
    with InferencePool(devices=["cpu"]) as pool:
        guardian = Guardian.load(trained, pool=pool)
        assert guardian.base == Manifest.read(trained).base_model
        harmful, harmless = guardian.check("zz 500 zz"), guardian.check("aa 500 aa")
        assert (harmful.harmful, harmless.harmful) == (True, False)
        assert harmful.hazard == "S2"
        assert harmful.risk > 0.8 > 0.2 > harmless.risk


@pytest.fixture
def completions() -> Iterator[Callable[[Path], str]]:
    """Serve a folder's model as vLLM does: prompts are ids, the answer is the asked ids' log-probabilities."""
    servers: list[ThreadingHTTPServer] = []

    def start(folder: Path) -> str:
        from transformers import AutoModelForCausalLM

        model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                self.answer({"object": "list", "data": [{"id": "guard", "object": "model", "owned_by": "vllm"}]})

            def do_POST(self) -> None:
                asked = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
                with torch.no_grad():
                    rows = [model(torch.tensor([ids])).logits[0, -1].log_softmax(-1) for ids in asked["prompt"]]
                told = [{f"token_id:{i}": float(row[i]) for i in asked["logprob_token_ids"]} for row in rows]
                choices = [
                    {"index": at, "text": "", "finish_reason": "length", "logprobs": {"top_logprobs": [one]}}
                    for at, one in enumerate(told)
                ]
                self.answer(
                    {"id": "1", "object": "text_completion", "created": 0, "model": "guard", "choices": choices}
                )

            def answer(self, body: object) -> None:
                data = json.dumps(body).encode()
                self.send_response(200)
                self.send_header("Content-Type", "application/json")
                self.send_header("Content-Length", str(len(data)))
                self.end_headers()
                self.wfile.write(data)

            def log_message(self, *_: object) -> None: ...

        servers.append(ThreadingHTTPServer(("127.0.0.1", 0), Handler))
        threading.Thread(target=servers[-1].serve_forever, daemon=True).start()
        return f"http://127.0.0.1:{servers[-1].server_address[1]}/v1"

    yield start
    for server in servers:
        server.shutdown()
        server.server_close()


@pytest.fixture(scope="module")
def exported(trained: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return export_merged(tmp_path_factory.mktemp("exported") / "guardian", model=trained)


def test_an_exported_guardian_gives_the_same_numbers(trained: Path, exported: Path) -> None:
    texts = ["zz 500 zz", "aa 500 aa", "zz aa", "<|im_end|> aa"]
    with InferencePool(devices=["cpu"]) as pool:
        one, other = (Guardian.load(folder, pool=pool) for folder in (trained, exported))
        assert [other.check(t).risk for t in texts] == pytest.approx([one.check(t).risk for t in texts], abs=1e-5)
        assert other.check(texts[0]).hazard == "S2"


def test_an_exported_guardian_judges_from_a_server(exported: Path, completions: Callable[[Path], str]) -> None:
    texts = ["zz 500 zz", "aa 500 aa", "zz aa"]
    with InferencePool(devices=["cpu"]) as pool:
        here = Guardian.load(exported, pool=pool)
        there = Guardian.load(f"openai:{completions(exported)}#guard", base=exported, pool=pool, self_test=False)
        assert [there.check(t).risk for t in texts] == pytest.approx([here.check(t).risk for t in texts], abs=1e-4)


def test_an_export_wants_an_adapter_and_an_empty_folder(trained: Path, exported: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="is not empty"):
        export_merged(exported, model=trained)
    with pytest.raises(ConfigError, match="is not empty"):
        export_merged(exported / "guardian.json", model=trained)
    with pytest.raises(ConfigError, match="only an adapter"):
        export_merged(tmp_path / "again", model=exported)


def test_a_missing_data_file_is_named(config: TrainConfig, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"no file 'catqa\.jsonl'"):
        train(config, data_folders=[], out=tmp_path, device="cpu", quiet=True)


def test_a_second_stage_goes_on_from_the_first(config: TrainConfig, data: Path, trained: Path, tmp_path: Path) -> None:
    later = config.model_copy(update={"start_from": "first", "learning_rate": 1e-9, "token_learning_rate": 1e-9})
    result = train(later, data_folders=[data], out=tmp_path, device="cpu", start=trained, max_steps=1, quiet=True)
    assert result.validation.auroc["input"] > 0.95  # one step of no size: what it knows, it knew


def test_a_stage_may_end_between_where_it_began_and_where_it_would_have(
    config: TrainConfig, data: Path, trained: Path, tmp_path: Path
) -> None:
    ends = {}
    for share in (0.0, 0.25):
        later = config.model_copy(update={"start_from": "first", "average_start": share, "epochs": 1.0})
        out = tmp_path / str(share)
        train(later, data_folders=[data], out=out, device="cpu", start=trained, quiet=True)
        ends[share] = load_file(out / ADAPTER_FILE)
    began = load_file(trained / ADAPTER_FILE)
    moved = 0.0
    for name, start in began.items():
        expected = 0.75 * ends[0.0][name].float() + 0.25 * start.float()
        assert torch.allclose(ends[0.25][name].float(), expected, atol=2e-2, rtol=2e-2)  # all were rounded to bfloat16
        moved += float((ends[0.0][name].float() - ends[0.25][name].float()).abs().sum())
    assert moved > 0


def test_a_later_stage_may_have_more_ranks(config: TrainConfig, data: Path, trained: Path, tmp_path: Path) -> None:
    """It begins as the same function, whatever its alpha, and its new ranks learn."""
    began = load_file(trained / ADAPTER_FILE)
    more = {"start_from": "first", "lora_rank": 2 * config.lora_rank, "lora_alpha": config.lora_alpha}
    for steps, still in ((1, True), (8, False)):
        rates = {"learning_rate": 1e-9, "token_learning_rate": 1e-9} if still else {}
        out = tmp_path / str(steps)
        later = config.model_copy(update=more | rates)
        result = train(later, data_folders=[data], out=out, device="cpu", start=trained, max_steps=steps, quiet=True)
        assert result.validation.auroc["input"] > 0.95
        ended = load_file(out / ADAPTER_FILE)
        for name, tensor in ended.items():
            if "lora_B" not in name:
                continue
            old, new = tensor.split(config.lora_rank, dim=1)
            if still:
                assert torch.allclose(
                    old.float(), 2 * began[name].float(), atol=1e-6, rtol=1e-2
                )  # alpha / rank is half
                assert new.abs().max() < 1e-6
            else:
                assert new.abs().max() > 1e-6


def test_a_later_stage_has_no_fewer_ranks(config: TrainConfig, data: Path, trained: Path, tmp_path: Path) -> None:
    later = config.model_copy(update={"start_from": "first", "lora_rank": config.lora_rank // 2})
    with pytest.raises(ConfigError, match="give at least as many"):
        train(later, data_folders=[data], out=tmp_path, device="cpu", start=trained, quiet=True)


def test_a_second_stage_without_the_first_is_an_error(config: TrainConfig, data: Path, tmp_path: Path) -> None:
    later = config.model_copy(update={"start_from": "first"})
    with pytest.raises(ConfigError, match="goes on from 'first'"):
        train(later, data_folders=[data], out=tmp_path, device="cpu", quiet=True)
    alone = config.model_copy(update={"average_start": 0.5})
    with pytest.raises(ConfigError, match="name them in start_from"):
        train(alone, data_folders=[data], out=tmp_path, device="cpu", quiet=True)


def test_rows_that_count_alike_are_learnt_too(config: TrainConfig, data: Path, tmp_path: Path) -> None:
    by_row = config.model_copy(update={"row_weight_power": 1.0})
    result = train(by_row, data_folders=[data], out=tmp_path, device="cpu", quiet=True)
    assert result.validation.auroc["input"] > 0.95


def test_bfloat16_learns_the_same_and_gives_the_same_bytes_twice(
    config: TrainConfig, data: Path, tmp_path: Path
) -> None:
    mixed = config.model_copy(update={"precision": "bfloat16"})
    for name in ("one", "two"):
        result = train(mixed, data_folders=[data], out=tmp_path / name, device="cpu", quiet=True)
        assert result.validation.auroc["input"] > 0.95
    assert (tmp_path / "one" / ADAPTER_FILE).read_bytes() == (tmp_path / "two" / ADAPTER_FILE).read_bytes()


def test_a_guardian_says_what_data_it_was_trained_on(config: TrainConfig, data: Path, trained: Path) -> None:
    assert Manifest.read(trained).metrics["data_sha256"] == data_fingerprint(config, read_pools(config, [data]))


def test_a_run_that_stops_early_says_so(config: TrainConfig, data: Path, trained: Path, tmp_path: Path) -> None:
    assert "stopped_at_step" not in Manifest.read(trained).metrics
    train(config, data_folders=[data], out=tmp_path, device="cpu", max_steps=2, quiet=True)
    assert Manifest.read(tmp_path).metrics["stopped_at_step"] == 2
