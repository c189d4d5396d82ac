"""What changes in objects while they run, as plain data that is put back into objects built alike.

No object is ever made from a file: numbers, arrays and the states of generators go back into objects that are there.
Texts of objects are settings, which these have already, and are left as they are; what is none of this (functions, the
inside of a simulator) is not in a snapshot, and stays what it is where one is put.
"""

import json
import random
import sys
from collections import deque
from collections.abc import Collection, Mapping
from hashlib import blake2b
from logging import Logger
from pathlib import Path
from types import FunctionType, MethodType, ModuleType
from typing import Any

import numpy as np
import torch
from gymnasium import spaces
from gymnasium.envs.registration import EnvSpec
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save
from torch import Tensor

Tree = Any
"""A snapshot: nested lists and dicts of numbers, texts and arrays."""
OPAQUE = {"kind": "opaque"}
"""In the place of what a snapshot does not hold."""
SETTINGS = (type, ModuleType, FunctionType, MethodType, Logger, EnvSpec)
"""What does not change in a run, or is nobody's to change."""
BIT_GENERATORS = {name: getattr(np.random, name) for name in ("PCG64", "PCG64DXSM", "MT19937", "Philox", "SFC64")}


class Damaged(Exception):
    """A file that does not hold a whole snapshot: why, in one line."""


def take(root: object, without: Collection[Any] = (), unnamed: Collection[str] = ()) -> Tree:
    """A snapshot of an object and all that it holds.

    Args:
        root: the object.
        without: objects within it, and all that they hold, that are left out.
        unnamed: attributes, of whatever object, that are left out.
    """
    return _Taking(without, unnamed).node(root)


def put(root: Any, tree: Tree) -> Any:
    """Put a snapshot back into an object built as the one was that it was taken of.

    Returns:
        What has now the place of ``root``: itself where it can change, else a new value.
    """
    if not isinstance(tree, Mapping):
        return tree
    match tree["kind"]:
        case "array":
            return _put_array(root, tree["array"])
        case "tensor":
            return _put_tensor(root, tree["tensor"], tree["device"])
        case "generator":
            return _put_generator(root, tree)
        case "object":
            _put_object(root, tree["values"])
            return root
        case "dict":
            return _put_dict(root, tree)
        case "tuple":
            return _put_tuple(root, tree)
        case "list" | "deque":
            return _put_items(root, tree)
    return root


class _Taking:
    def __init__(self, without: Collection[Any] = (), unnamed: Collection[str] = ()):
        self.seen = {id(each) for each in without}
        self.unnamed = unnamed

    def node(self, value: Any) -> Tree:
        if type(value) in (bool, int, float, str, type(None)):  # not the classes that are built on them
            return value
        if id(value) in self.seen or isinstance(value, SETTINGS):
            return OPAQUE
        if not isinstance(value, tuple | np.generic):  # nobody would notice if these were two
            self.seen.add(id(value))
        if isinstance(value, np.ndarray | np.generic):
            return {"kind": "array", "array": np.array(value)} if value.dtype.kind in "biuf" else OPAQUE
        if isinstance(value, Tensor):
            return {"kind": "tensor", "tensor": _as_array(value), "device": str(value.device)}
        if (generator := _generator(value)) is not None:
            return generator
        if isinstance(value, list | tuple | deque):
            return self._items(value)
        if isinstance(value, dict):
            return self._dict(value)
        if isinstance(value, spaces.Space):  # but for their generators, spaces do not change
            inner = {"_np_random": value._np_random, "spaces": getattr(value, "spaces", None)}
            return {"kind": "object", "values": {name: self.node(each) for name, each in inner.items()}}
        if hasattr(value, "__dict__"):
            state = {
                name: each
                for name, each in vars(value).items()
                if not isinstance(each, str) and name not in self.unnamed
            }
            return {"kind": "object", "values": {name: self.node(each) for name, each in state.items()}}
        return OPAQUE

    def _items(self, values: list[Any] | tuple[Any, ...] | deque[Any]) -> Tree:
        kind = next(each.__name__ for each in (list, tuple, deque) if isinstance(values, each))
        tree: dict[str, Any] = {"kind": kind, "values": [self.node(each) for each in values]}
        if isinstance(values, deque):
            tree["maxlen"] = values.maxlen
        if hasattr(values, "_fields"):
            tree["class"] = f"{type(values).__module__}:{type(values).__qualname__}"
        return tree

    def _dict(self, values: dict[Any, Any]) -> Tree:
        if not all(type(key) in (str, int) for key in values):
            return OPAQUE
        return {"kind": "dict", "keys": list(values), "values": [self.node(each) for each in values.values()]}


def _as_array(tensor: Tensor) -> np.ndarray:
    return tensor.detach().cpu().numpy().copy()


def _generator(value: Any) -> Tree | None:
    match value:
        case np.random.Generator():
            state: Any = value.bit_generator.state
        case np.random.RandomState():
            state = value.get_state(legacy=False)
        case random.Random():
            state = value.getstate()
        case torch.Generator():
            state = value.get_state().numpy().copy()
        case _:
            return None
    return {"kind": "generator", "state": _Taking().node(state)}


def _put_array(current: Any, array: np.ndarray) -> Any:
    if isinstance(current, np.ndarray) and current.shape == array.shape and current.dtype == array.dtype:
        if current.flags.writeable:
            current[...] = array  # others may hold it too
            return current
        return array.copy()
    return array.copy() if array.ndim or not isinstance(current, np.generic) else array.dtype.type(array)


def _put_tensor(current: Any, array: np.ndarray, device: str) -> Any:
    tensor = torch.from_numpy(array.copy())
    if isinstance(current, Tensor) and current.shape == tensor.shape:
        with torch.no_grad():
            current.copy_(tensor)
        return current
    return tensor.to(device)


def _put_generator(current: Any, tree: Tree) -> Any:
    state = put(None, tree["state"])
    match current:
        case random.Random():
            current.setstate(state)
        case torch.Generator():
            current.set_state(torch.from_numpy(state))
        case np.random.RandomState():
            current.set_state(state)
        case np.random.Generator() if current.bit_generator.state["bit_generator"] == state["bit_generator"]:
            current.bit_generator.state = state
        case np.random.Generator() | None if isinstance(state, dict) and state.get("bit_generator") in BIT_GENERATORS:
            current = np.random.Generator(BIT_GENERATORS[state["bit_generator"]]())
            current.bit_generator.state = state
    return current


def _put_object(current: Any, values: Mapping[str, Tree]) -> None:
    own = getattr(current, "__dict__", None)
    if own is None or isinstance(current, SETTINGS):
        return
    for name, tree in values.items():
        before = own.get(name)
        after = put(before, tree)
        if after is not before:
            own[name] = after


def _put_dict(current: Any, tree: Tree) -> Any:
    trees = dict(zip(tree["keys"], tree["values"], strict=True))
    held = current if isinstance(current, dict) else {}
    if not _is_data(tree):
        for key in held.keys() & trees.keys():
            held[key] = put(held[key], trees[key])
        return held
    values = {key: put(held.get(key), each) for key, each in trees.items()}
    held.clear()  # others may hold it too
    held.update(values)
    return held


def _put_tuple(current: Any, tree: Tree) -> Any:
    trees = tree["values"]
    before = current if isinstance(current, tuple) and len(current) == len(trees) else (None,) * len(trees)
    items = [put(own, each) for own, each in zip(before, trees, strict=True)]
    if before is current and all(new is old for new, old in zip(items, before, strict=True)):
        return current
    kind = _named_tuple(tree.get("class"), len(items))
    return tuple(items) if kind is None else kind(*items)


def _named_tuple(name: Any, length: int) -> type | None:
    """A class of named tuples by its name, if it is one and imported: making one runs nothing."""
    module, _, attribute = str(name).partition(":")
    kind = getattr(sys.modules.get(module), attribute, None)
    is_named = isinstance(kind, type) and issubclass(kind, tuple) and len(getattr(kind, "_fields", ())) == length
    return kind if is_named and kind.__new__ is not tuple.__new__ else None


def _put_items(current: Any, tree: Tree) -> Any:
    trees = tree["values"]
    held = current if isinstance(current, list | deque) else deque(maxlen=tree.get("maxlen"))
    is_as_long = len(held) == len(trees)
    if not (is_as_long or _is_data(tree)):
        return current
    items = [put(own, each) for own, each in zip(held if is_as_long else [None] * len(trees), trees, strict=True)]
    if held is not current and tree["kind"] == "list":
        return items
    held.clear()  # others may hold it too
    held.extend(items)
    return held


def _is_data(tree: Tree) -> bool:
    """Whether a snapshot says all of what it was taken of, so that a new one can be made."""
    if not isinstance(tree, Mapping):
        return True
    return tree["kind"] not in ("opaque", "object") and all(map(_is_data, tree.get("values", ())))


# -- files -------------------------------------------------------------------------------


def write(tree: Tree) -> bytes:
    """A snapshot as the bytes of a safetensors file: arrays as such, all else as JSON in its header."""
    text, arrays = _apart(tree)
    return save(arrays, {"snapshot": text, "digest": _digest(text, arrays)})


def digest(tree: Tree) -> str:
    """The same text for the same snapshots, and for no others. (The order in a file's header is not always one.)"""
    return _digest(*_apart(tree))


def read(file: Path) -> Tree:
    """The snapshot in a file.

    Raises:
        Damaged: the file is cut, changed or something else.
    """
    try:
        with safe_open(file, "numpy") as content:
            metadata = content.metadata() or {}
            arrays = {name: content.get_tensor(name) for name in content.keys()}  # noqa: SIM118 (it is no dict)
        text = metadata["snapshot"]
        if metadata["digest"] != _digest(text, arrays):
            raise Damaged(f"{file} is damaged: its digest is another one")
        return _with_arrays(json.loads(text), arrays)
    except (OSError, SafetensorError, KeyError, ValueError, TypeError, RecursionError) as error:
        raise Damaged(f"{file} cannot be read: {' '.join(str(error).split())}") from error


def _apart(tree: Tree) -> tuple[str, dict[str, np.ndarray]]:
    """A snapshot as JSON, and the arrays that it names."""
    arrays: dict[str, np.ndarray] = {}
    return json.dumps(_without_arrays(tree, arrays)), arrays


def _without_arrays(node: Any, arrays: dict[str, np.ndarray]) -> Any:
    """A snapshot whose arrays are numbers, under which they are put aside."""
    if isinstance(node, np.ndarray):
        arrays[str(len(arrays))] = np.array(node, order="C")
        return {"array": len(arrays) - 1}
    if isinstance(node, Mapping):
        return {key: _without_arrays(each, arrays) for key, each in node.items()}
    return [_without_arrays(each, arrays) for each in node] if isinstance(node, list) else node


def _with_arrays(node: Any, arrays: Mapping[str, np.ndarray]) -> Any:
    """The reverse."""
    if isinstance(node, dict):
        if node.keys() == {"array"} and isinstance(node["array"], int):
            return arrays[str(node["array"])]
        return {key: _with_arrays(each, arrays) for key, each in node.items()}
    return [_with_arrays(each, arrays) for each in node] if isinstance(node, list) else node


def _digest(text: str, arrays: Mapping[str, np.ndarray]) -> str:
    hashed = blake2b(text.encode(), digest_size=16)
    for name in sorted(arrays, key=int):
        hashed.update(f"{arrays[name].dtype}{arrays[name].shape}".encode())
        hashed.update(arrays[name].tobytes())
    return hashed.hexdigest()
