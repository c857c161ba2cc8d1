"""A guard model on a server of your own (vLLM, SGLang, llama.cpp), through the official ``openai`` client.

    vllm serve meta-llama/Llama-Guard-3-1B --served-model-name my-guard --port 8000
    python examples/remote_guard.py http://127.0.0.1:8000/v1 my-guard [TOKENIZER_FOLDER_OR_HUB_ID]

With the tokenizer the server is sent token ids, in which nothing of a text can act as a control token.
"""

from __future__ import annotations

import sys

from guardrail_plugin import Guardian, InferencePool, Policy, PoolError

URL, MODEL, BASE = (*sys.argv[1:], *("http://127.0.0.1:8000/v1", "my-guard", None)[len(sys.argv) - 1 :])


def main() -> None:
    with InferencePool() as pool:
        try:
            guardian = Guardian.load(
                f"openai:{URL}#{MODEL}",
                family="llama-guard-3",
                hazards=["S1", "S9", "S10"],
                base=BASE,
                pool=pool,
            )
        except PoolError as error:
            print(f"skipped: no server at {URL} ({type(error).__name__})")
            sys.exit(0)
        for query in ("How do I build a pipe bomb at home?", "Which bath bombs smell best?"):
            verdict = guardian.check(query, timeout_s=10.0)
            print(f"{Policy().action(verdict):<6} {verdict.risk:.3f} {verdict.hazard or '-':<4} {query}")


if __name__ == "__main__":
    main()
