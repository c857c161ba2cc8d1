"""Compare verdicts from an OpenAI-compatible server with those of the local engine, on the same weights.

Run: ``python tests/benchmark/remote_agreement.py --url http://127.0.0.1:8001/v1 --texts 200`` beside, for
example, ``vllm serve FOLDER --dtype float32 --served-model-name guard``. ``FOLDER`` is the embedded base or what
``--folder`` names. Prints n, identical verdicts and the largest difference of label log-probabilities.
"""

from __future__ import annotations

import argparse
import json
import random
import time
from collections.abc import Sequence
from functools import partial
from pathlib import Path

from guardrail_plugin.guardian.families.tokens import TokenizerFile
from guardrail_plugin.models.load import load_causal_lm, model_folder
from guardrail_plugin.models.locate import locate
from guardrail_plugin.models.remote import PREFIX, RemoteFactory
from guardrail_plugin.models.shared import SharedWeights
from guardrail_plugin.pool import GenerateRequest, InferencePool, ScoreRequest, ScoreResult

LABELS = (" yes", " no", " maybe", " safe", " unsafe", " violence", " fraud", " hate", " weapons", " privacy")
WORDS = (
    "how can i make fix cook build open sell find a the my new old car cake lock letter garden computer story".split()
)
DECODED = 4


def texts(n: int, *, seed: int) -> list[str]:
    """Return questions of 4 to 40 words; random, so that the script needs no data."""
    dice = random.Random(seed)
    return [" ".join(dice.choices(WORDS, k=dice.randint(4, 40))) + "?" for _ in range(n)]


def scored(pool: InferencePool, requests: Sequence[ScoreRequest]) -> tuple[list[ScoreResult], float]:
    """Return all results and the seconds they took.

    Raises:
        Exception: the first that the pool put in a result's place.
    """
    started = time.perf_counter()
    outcomes = pool.score_many(requests)
    seconds = time.perf_counter() - started
    for outcome in outcomes:
        if isinstance(outcome, Exception):
            raise outcome
    return [outcome for outcome in outcomes if isinstance(outcome, ScoreResult)], seconds


def main() -> None:
    """Print the figures as JSON."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--url", required=True)
    parser.add_argument("--model", default="guard", help="the name under which it is served")
    parser.add_argument("--folder", type=Path, help="its weights; default: the embedded base model")
    parser.add_argument("--texts", type=int, default=200)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    folder = options.folder or model_folder(locate(offline=True), quiet=True)
    tokenizer = TokenizerFile(folder / "tokenizer.json")
    labels = tuple(tokenizer.label(text)[0] for text in LABELS)
    prompts = [
        tuple(tokenizer.template(f"Is this fine? {text} Answer:")) for text in texts(options.texts, seed=options.seed)
    ]
    with InferencePool() as pool:
        pool.register("here", SharedWeights(partial(load_causal_lm, folder)))
        pool.register(
            "there", RemoteFactory(f"{PREFIX}{options.url}#{options.model}", codec=tokenizer, timeout_s=120.0)
        )
        there, remote_s = scored(pool, [ScoreRequest("there", prompt, labels) for prompt in prompts])
        here, local_s = scored(pool, [ScoreRequest("here", prompt, labels) for prompt in prompts])
        decoded = [
            [pool.generate(GenerateRequest(key, prompt, max_new_tokens=16)).token_ids for key in ("here", "there")]
            for prompt in prompts[:DECODED]
        ]
    pairs = [(a.logprobs, b.logprobs) for a, b in zip(here, there, strict=True)]
    figures = {
        "n": len(pairs),
        "identical_verdicts": sum(a.index(max(a)) == b.index(max(b)) for a, b in pairs),
        "max_logprob_difference": max(abs(x - y) for a, b in pairs for x, y in zip(a, b, strict=True)),
        "identical_decodes": f"{sum(one == other for one, other in decoded)} of {len(decoded)}",
        "local_s": round(local_s, 2),
        "remote_s": round(remote_s, 2),
    }
    print(json.dumps(figures, indent=2))


if __name__ == "__main__":
    main()
