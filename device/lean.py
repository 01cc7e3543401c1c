"""Loads scipy.signal without scipy.stats, which a fifth of the daemon's memory would go to.

scipy.signal wants of it one function, for peaks that are found by wavelets. That one loads the rest when it is called,
which affectd never does. It knows nothing of signals.
"""

from __future__ import annotations

import importlib
import sys
from collections.abc import Callable
from types import ModuleType
from typing import Any

LEFT_OUT = "scipy.stats"


class _StandIn(ModuleType):
    """Gives functions that load the real module when they are called."""

    def __getattr__(self, name: str) -> Callable[..., Any]:
        if name.startswith("__"):
            raise AttributeError(name)

        def call(*arguments: Any, **options: Any) -> Any:
            return getattr(importlib.import_module(LEFT_OUT), name)(*arguments, **options)

        return call


def load_signal() -> None:
    """Load it so, unless either is loaded already; whoever imports scipy.stats afterwards gets the real one."""
    if LEFT_OUT in sys.modules:
        return
    sys.modules[LEFT_OUT] = _StandIn(LEFT_OUT)
    try:
        importlib.import_module("scipy.signal")
    finally:
        del sys.modules[LEFT_OUT]
