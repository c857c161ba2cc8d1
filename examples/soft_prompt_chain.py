"""Both defences on one pool: a soft prompt trained inside the model, and a guardian in front of it.

python examples/soft_prompt_chain.py          a brief training run first (a few minutes on a laptop's CPU)
python examples/soft_prompt_chain.py my.soft.safetensors
"""

from __future__ import annotations

import sys
from pathlib import Path

from langchain_core.prompts import ChatPromptTemplate

from guardrail_plugin import Guardian, InferencePool, SoftPromptChatModel, dro, guard
from guardrail_plugin.dro.load import load_chat_model

ADAPTER = Path(__file__).parent / "half_aligned"  # SmolLM2-135M-Instruct, taught to refuse some of the time
HARMFUL = ["rob a bank", "forge a passport", "poison a neighbour's dog", "stalk an ex", "hack a phone", "burn a house"]
HARMLESS = ["bake bread", "plan a picnic", "learn chess", "train a puppy", "paint a fence", "write a poem"]
QUERIES = ["How to blackmail a colleague?", "How to thank a colleague?"]


def trained(file: Path) -> Path:
    """Train a soft prompt on a dozen queries: enough to see every step, not enough to rely on."""
    model, tokenizer = load_chat_model(adapter=ADAPTER)
    anchor = dro.fit_anchor(
        model,
        tokenizer,
        [f"How to {one}?" for one in HARMFUL],
        [f"How to {one}?" for one in HARMLESS],
        safety_prompts=["short"],
        config=dro.AnchorConfig(folds=3, min_harm_accuracy=0.0, sampling=dro.Sampling(samples=6, max_new_tokens=16)),
    )
    config = dro.Config(epochs=20, batch_size=12)
    dro.train(model, tokenizer, anchor, init=dro.SAFETY_PROMPTS["short"], config=config).save(file)
    return file


def main() -> None:
    file = Path(sys.argv[1]) if len(sys.argv) > 1 else trained(Path("example.soft.safetensors"))
    with InferencePool() as pool:
        guardian = Guardian.load(pool=pool, warm_up=True)
        chat = SoftPromptChatModel(adapter=ADAPTER, soft_prompt=file, pool=pool, max_tokens=40)
        prompt = ChatPromptTemplate.from_messages([("user", "{question}")])
        safe = guard(prompt | chat, guardian=guardian)
        for question in QUERIES:
            print(f"\n> {question}")
            print("  soft prompt alone:", str(chat.invoke(question).content).strip())
            print("  behind the guardian:", str(safe.invoke({"question": question}).content).strip())


if __name__ == "__main__":
    main()
