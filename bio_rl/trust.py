"""What a file may name, and how large it may be.

A run's folder may be somebody else's, so a name in it never imports anything: it is looked up among what is
imported already, on the account of the program or of the user, and among a few modules that are known to hold
nothing but what they say. SECURITY.md tells what is promised.
"""

import re
import sys
from collections.abc import Collection, Iterator, Mapping
from importlib import import_module
from itertools import accumulate
from pathlib import Path
from types import ModuleType
from typing import Any

import yaml

from bio_rl.names import is_within

KNOWN = ("gymnasium.wrappers", "gymnasium.spaces", "stable_baselines3.common.atari_wrappers")
"""Modules whose classes a run's environment may name."""
CODE = re.compile(r"(?P<module>[^\W\d]\w*(\.[^\W\d]\w*)*):\w[\w.-]*")
"""A text that names something of a module: ``module:Class`` a rule, ``module:Id-v0`` an environment."""
WRITERS = ("RecordVideo",)
"""Those among them that write files where their arguments say."""
MOST_BYTES, MOST_NODES = 2**20, 200_000
"""Of a YAML file: its length, and the values that it stands for, each as often as it is referred to."""
# The C library's parser, where PyYAML was built with it, is eight times as fast.
_SafeLoader: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)


class Untrusted(ValueError):
    """A file that names code which nobody has asked for, or stands for more than any file of ours: in one line."""


def imported(module: str) -> ModuleType:
    """A module that is imported already.

    Raises:
        Untrusted: it is not.
    """
    if module not in sys.modules:
        raise Untrusted(f"it names code of {module!r}, which is not imported; {_remedy(module)}, or import it first")
    return sys.modules[module]


def check_names(values: Any) -> None:
    """Refuse settings that name code, as ``module:Class`` does, of a module that is not imported.

    Raises:
        Untrusted: naming the module.
    """
    for text in _texts(values):
        if named := CODE.fullmatch(text):
            imported(named["module"])


def check_environment(env: Mapping[str, Any], trusted: Collection[str] = ()) -> None:
    """Refuse an environment's config that names code other than known wrappers and spaces.

    Args:
        env: the group of that name, as plain data. A run keeps it resolved: nothing in it is to be looked up again.
        trusted: the modules that the user named, whose code and submodules may be named too.

    Raises:
        Untrusted: naming what it is.
    """
    if any("${" in text for text in _texts(env)):
        raise Untrusted("a text of env would be looked up elsewhere (${...}), which no run of ours leaves")
    for module in _foreign(env):
        if not is_within(module, trusted):
            raise Untrusted(f"env names code of {module!r}, which is none of {', '.join(KNOWN)}; {_remedy(module)}")
    for name in ("kwargs", "evaluation_kwargs"):
        check_names(env.get(name))
    for target in targets(env.get("wrapper")):
        module, _, name = str(target).rpartition(".")
        if module in KNOWN and (name in WRITERS or not isinstance(getattr(import_module(module), name, None), type)):
            raise Untrusted(f"env.wrapper names {target!r}, which is no wrapper that only looks")


def code_of_ones_own(config: Mapping[str, Any]) -> list[str]:
    """The modules that a run's config names, beyond ours and the known ones, as ``play --trust`` takes them."""
    rules = (target.rpartition(".")[0] for name in ("rule", "critic_rule") for target in targets(config.get(name)))
    return sorted({*_foreign(config["env"]), *(module for module in rules if not is_within(module, ("bio_rl",)))})


def _foreign(env: Mapping[str, Any]) -> Iterator[str]:
    """The modules that a config of an environment names and that are not known."""
    module, colon, _ = str(env.get("id")).partition(":")
    if colon and not is_within(module, ("bio_rl.tasks",)):
        yield module
    for target in targets(env.get("wrapper")):
        module = str(target).rpartition(".")[0]
        if module not in KNOWN:
            yield module


def _remedy(module: str) -> str:
    return f"if you trust it, say so: bio-rl play --trust {module}"


def targets(wrapper: Any) -> Iterator[Any]:
    """Whatever a config of wrappers, or of anything that Hydra makes, would call, at any depth."""
    if isinstance(wrapper, str):
        yield wrapper
    for each in wrapper if isinstance(wrapper, list) else []:
        yield from targets(each)
    if isinstance(wrapper, Mapping):
        if "_target_" in wrapper:
            yield wrapper["_target_"]
        for key, value in wrapper.items():
            if key != "_target_" and not isinstance(value, str):
                yield from _inner_targets(value)


def _inner_targets(value: Any) -> Iterator[Any]:
    """As ``targets``, where a text is an argument and no class."""
    if isinstance(value, Mapping):
        yield from targets(value)
    for each in value if isinstance(value, list) else []:
        yield from _inner_targets(each)


def _texts(values: Any) -> Iterator[str]:
    if isinstance(values, str):
        yield values
    for each in values.values() if isinstance(values, Mapping) else values if isinstance(values, list) else []:
        yield from _texts(each)


def plain_file(folder: Path, name: str) -> Path | None:
    """A file of a folder, if it is a plain one in plain folders: what a link leads to is not the folder's."""
    path = folder / name
    return path if first_link(folder, name) is None and ".." not in Path(name).parts and path.is_file() else None


def first_link(folder: Path, name: str) -> Path | None:
    """The first link on the way from a folder to a file in it; ``None`` if there is none."""
    steps = accumulate(Path(name).parts, Path.joinpath, initial=folder)
    return next((path for path in steps if path != folder and path.is_symlink()), None)


def read_yaml(path: Path) -> Any:
    """What a YAML file holds, as plain data; errors as ``parse_yaml``, and OSError."""
    if not path.is_file():
        raise Untrusted("it is no plain file")
    if path.stat().st_size > MOST_BYTES:
        raise Untrusted(f"it is longer than {MOST_BYTES} bytes, which no file of ours is")
    return parse_yaml(path.read_bytes())


def parse_yaml(content: bytes) -> Any:
    """What the bytes of a YAML file stand for, as plain data.

    Raises:
        Untrusted: it stands for more than any file of ours.
        yaml.YAMLError, UnicodeError, ValueError, RecursionError: it is no YAML.
    """
    if len(content) > MOST_BYTES:
        raise Untrusted(f"it is longer than {MOST_BYTES} bytes, which no file of ours is")
    loader = _SafeLoader(content)
    try:
        node = loader.get_single_node()
        if node is None:
            return None
        if _values(node, {}, ()) > MOST_NODES:
            raise Untrusted(f"it stands for more than {MOST_NODES} values, which no file of ours does")
        return loader.construct_document(node)
    finally:
        loader.dispose()


def _values(node: yaml.Node, known: dict[int, int], above: tuple[int, ...]) -> int:
    """How many values a node stands for, its references written out."""
    if id(node) in above:
        raise Untrusted("it refers to itself")
    if id(node) not in known:
        inner: list[yaml.Node] = []
        if isinstance(node, yaml.MappingNode):
            inner = [part for pair in node.value for part in pair]
        elif isinstance(node, yaml.SequenceNode):
            inner = node.value
        known[id(node)] = 1 + sum(_values(part, known, (*above, id(node))) for part in inner)
    return known[id(node)]
