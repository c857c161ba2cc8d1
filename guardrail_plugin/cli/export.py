"""``guardrail export``: a guardian as one model without adapter, for inference servers."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from guardrail_plugin.cli.reporting import reports_errors


@reports_errors
def export(
    *,
    out: Annotated[Path, typer.Option("--out", metavar="DIR", help="New folder for the model.")],
    model: Annotated[
        Path | None, typer.Option("--model", metavar="DIR", help="Folder of a guardian. Default: the embedded one.")
    ] = None,
    base: Annotated[
        str | None, typer.Option("--base", metavar="PATH|HUB", help="Base model. Default: the guardian's.")
    ] = None,
    base_revision: Annotated[
        str | None, typer.Option("--base-revision", metavar="REV", help="Commit, tag or branch of --base on the hub.")
    ] = None,
    dtype: Annotated[
        str, typer.Option("--dtype", metavar="NAME", help="float32: the adapter's numbers; bfloat16: half the size.")
    ] = "float32",
) -> None:
    """Merge a guardian's adapter into its base and write one model that servers load as it is.

    Prints how vLLM serves it and how it is used from there.
    """
    from guardrail_plugin.assembly import export_merged
    from guardrail_plugin.core.dtype import dtype_named

    chosen = dtype_named(dtype)
    written = export_merged(out, model=model, base=base, base_revision=base_revision, dtype=chosen)
    console = Console(highlight=False, soft_wrap=True, markup=False, emoji=False)
    console.print(f"Wrote {written}. Serve it and use it from anywhere:")
    console.print(f"  vllm serve {written} --served-model-name guardian --enable-prefix-caching --port 8000")
    console.print(f'  Guardian.load("openai:http://127.0.0.1:8000/v1#guardian", base="{written}", pool=pool)')
