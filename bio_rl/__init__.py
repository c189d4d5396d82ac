"""Credit assignment for torch networks: layers, networks and the rules by which they learn."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from bio_rl.layers import Dense as Dense
    from bio_rl.network import Network as Network
    from bio_rl.rule import Rule as Rule
    from bio_rl.rules import make_rule as make_rule

__version__ = "0.1.0"
__all__ = ["Dense", "Network", "Rule", "make_rule"]

_HOME = {"Dense": "layers", "Network": "network", "Rule": "rule", "make_rule": "rules"}


def __getattr__(name: str) -> Any:
    """Looked up when asked for: the command's help must not wait for torch."""
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_HOME[name]}"), name)
