"""What a guarded model lacks, and how to write it instead."""

from __future__ import annotations

from typing import NoReturn

_ADVICE = "a guarded Runnable has no {0}: bind first, guard(model.{0}(...), ...), or use guard_model(model, ...)"


class BindFirst:
    """Tells what to write where a guarded chat model is asked for what only the model itself can bind.

    ``hasattr`` stays ``False``: what probes for these (LangChain's agents) sees a Runnable without them.
    """

    @property
    def bind_tools(self) -> NoReturn:
        """Not there.

        Raises:
            AttributeError: always.
        """
        raise AttributeError(_ADVICE.format("bind_tools"))

    @property
    def with_structured_output(self) -> NoReturn:
        """Not there.

        Raises:
            AttributeError: always.
        """
        raise AttributeError(_ADVICE.format("with_structured_output"))
