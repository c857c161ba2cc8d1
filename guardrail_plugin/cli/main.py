"""``guardrail``: the entry point. Works, with a message, where the extra ``cli`` is not installed."""

from __future__ import annotations

import io
import sys
import warnings

from guardrail_plugin.core.errors import MissingDependencyError


def main() -> None:
    """Run the command line."""
    try:
        import rich  # noqa: F401
        import typer  # noqa: F401
    except ImportError as error:
        print(f"error: {MissingDependencyError(error.name or 'typer', extra='cli')}", file=sys.stderr)
        raise SystemExit(2) from None
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            # A lone surrogate, or a letter that the terminal's encoding lacks, must not end a run of hours.
            stream.reconfigure(errors="replace")
    # Model libraries announce their own future here; nobody at a command line can act on it.
    warnings.filterwarnings("ignore", category=FutureWarning, module="transformers|peft|huggingface_hub")
    from guardrail_plugin.cli.app import app

    app(prog_name="guardrail")


if __name__ == "__main__":
    main()
