"""What a config may hold: our own keys with their types, and for every object what its constructor takes."""

import importlib
from collections.abc import Callable, Iterator, Mapping, MutableMapping
from typing import Any

from bio_rl.cli.errors import UserError, nearest_of
from bio_rl.names import argument_names
from bio_rl.rule import Rule
from bio_rl.settings import PRESET

Settings = Mapping[str, Any]

TARGET = "_target_"
MARKS = (TARGET, "_partial_", "_args_", "_convert_", "_recursive_")
"""What Hydra itself reads in an object's settings."""
RULES = ("rule", "critic_rule")
SUPPLIED = {
    "agent": {
        "env": "env",
        "rule": "rule",
        "critic_rule": "critic_rule",
        "optimizer": "optimizer",
        "optimizer_kwargs": "optimizer",
        "learning_rate": "optimizer.learning_rate",
        "critic_learning_rate": "optimizer.critic_learning_rate",
        "seed": "seed",
        "device": "device",
        "tensorboard_log": "logging",
    },
    "optimizer": {"lr": "optimizer.learning_rate", "params": "network"},
    "env.kwargs": {"max_episode_steps": "env.max_episode_steps"},
    "env.evaluation_kwargs": {"max_episode_steps": "env.max_episode_steps"},
    "env.wrapper": {"env": "env"},
}
"""Arguments that come from a setting elsewhere, as a run builds its agent and environment."""
REQUIRED = {"optimizer": ("name", "learning_rate", "critic_learning_rate")}
"""Keys that a run reads itself, in groups that hold arguments otherwise."""


def is_open(group: str, value: Any) -> bool:
    """Whether the keys below a setting are arguments of something, for it to know, and not our own."""
    return group in ("optimizer", "callbacks") or not isinstance(value, Mapping) or not value or TARGET in value


def unknown_keys(config: Settings, reference: Settings, path: str = "") -> Iterator[str]:
    """The keys that are ours to know and that ``reference`` has not."""
    for name, value in config.items():
        if name not in reference:
            yield f"{path}{name}"
        elif isinstance(value, Mapping) and not is_open(f"{path}{name}", reference[name]):
            yield from unknown_keys(value, reference[name], f"{path}{name}.")


def check_values(config: Settings, reference: Settings, path: str = "") -> None:
    """Refuse a setting that is not of its default's type, or that is ours and has been taken out.

    Raises:
        UserError: the first such setting.
    """
    group = path.removesuffix(".")
    required = REQUIRED.get(group, ()) if is_open(group, reference) else tuple(reference)
    for name, default in reference.items():
        key = f"{path}{name}"
        if name in config:
            _check_type(key, default, config[name])
            if isinstance(default, Mapping):
                check_values(config[name], default, f"{key}.")
        elif name in required:
            raise UserError(f"{key} is missing: a run needs it, as in {key}={as_text(default)}")


def check_arguments(config: Settings, choices: Settings) -> None:
    """Refuse a setting that is not an argument of what it is for.

    Args:
        config: of a run.
        choices: Hydra's, the file chosen from each group.

    Raises:
        UserError: the first such setting, with the argument most like it.
    """
    for key, settings, target in _objects(config):
        supplied = SUPPLIED.get(key, {})
        if key == "agent":
            supplied = supplied | {name: f"network.{name}" for name in config["network"]}
        known = None if target is None else argument_names(target)
        for name in settings:
            if name in supplied:
                raise UserError(f"{key}.{name}: it has no effect there; set {supplied[name]}")
            if known is not None and name not in (*known, *MARKS, *REQUIRED.get(key, ())):
                others = {*settings, *known} - {name, *MARKS, *supplied}
                raise UserError(f"{key}.{name}: {where(key, choices)} has no key {name!r}{nearest_of(name, others)}")


def fill_presets(config: MutableMapping[str, Any]) -> None:
    """Put values in the place of what a config leaves to the presets of its rules."""
    for key in RULES:
        if isinstance(config.get(key), Mapping):
            config[key] = with_preset(config[key])


def with_preset(settings: Settings) -> dict[str, Any]:
    """A rule's settings, those that are null as its preset says.

    Where its class cannot be found they are as they were; building it explains why.

    Raises:
        UserError: a preset that the rule does not have.
    """
    if PRESET not in settings:
        return dict(settings)
    rule, given = _found(settings.get(TARGET)), {}
    if isinstance(rule, type) and issubclass(rule, Rule):
        try:
            given = rule.preset_settings(settings[PRESET])
        except ValueError as error:
            raise UserError(str(error)) from error
    return {name: given.get(name) if value is None else value for name, value in settings.items()}


def where(key: str, choices: Settings, primary: str = "train") -> str:
    """A setting with the file that has it, as ``agent (agent/ppo.yaml)``."""
    if key.startswith("hydra"):
        return key
    group = key.partition(".")[0]
    choice = choices.get("rule@critic_rule" if group == "critic_rule" else group)
    file = f"{'rule' if group == 'critic_rule' else group}/{choice}.yaml" if choice else f"{primary}.yaml"
    return f"{key} ({file})"


def as_text(value: Any) -> str:
    """A value as one writes it on the command line."""
    return {"None": "null", "True": "true", "False": "false"}.get(text := str(value).replace(" ", ""), text)


def _objects(config: Settings) -> Iterator[tuple[str, Settings, Callable[..., Any] | None]]:
    """What is built of a config: where its arguments stand, these, and what takes them, if that can be found."""
    for key in ("agent", *RULES):
        if isinstance(config[key], Mapping):
            yield key, config[key], _found(config[key].get(TARGET))
    yield "optimizer", config["optimizer"], _optimizer(config["optimizer"]["name"])
    env = config["env"]
    for key in ("kwargs", "evaluation_kwargs"):
        if env[key]:
            yield f"env.{key}", env[key], _environment(env["id"])
    wrappers = env["wrapper"] if isinstance(env["wrapper"], list) else [env["wrapper"]]
    several = [("env.wrapper", wrapper) for wrapper in wrappers]
    several += [(f"callbacks.{name}", callback) for name, callback in config["callbacks"].items()]
    for key, settings in several:
        if isinstance(settings, Mapping):
            yield key, settings, _found(settings.get(TARGET))


def _found(path: Any) -> Callable[..., Any] | None:
    """What a ``_target_`` names; ``None`` for what cannot be imported, which building it explains."""
    module, _, name = str(path).rpartition(".")
    try:
        found = getattr(importlib.import_module(module), name)
    except Exception:  # a module of the user's may raise anything
        return None
    return found if callable(found) else None


def _optimizer(name: Any) -> Callable[..., Any] | None:
    from agents.base import OPTIMIZERS

    return OPTIMIZERS[name][0] if name in OPTIMIZERS else None


def _environment(env_id: str) -> Callable[..., Any] | None:
    """What makes an environment."""
    import gymnasium

    module, _, name = str(env_id).rpartition(":")
    try:
        if module:
            importlib.import_module(module)
        entry_point = gymnasium.spec(name).entry_point
    except Exception:  # as above
        return None
    return _found(entry_point.replace(":", ".")) if isinstance(entry_point, str) else entry_point


def _check_type(key: str, default: Any, value: Any) -> None:
    # Without a value, or with one that another setting gives, a default has no type.
    if default is None or (isinstance(default, str) and default.startswith(("$", "???"))):
        return
    schedule = key.endswith(("learning_rate", "clip_range")) and isinstance(value, str) and value.startswith("lin_")
    apart = (
        key in ("network.hidden", "network.frozen")
        and isinstance(value, Mapping)
        and all(_same_type(default, each) for each in value.values())
    )
    if not (schedule or apart or _same_type(default, value)):
        example = "" if isinstance(default, Mapping) else f", as in {key}={as_text(default)}"
        raise UserError(f"{key}={as_text(value)}: {key} must be {_type_name(default)}{example}")


def _same_type(default: Any, value: Any) -> bool:
    if isinstance(default, bool):
        return isinstance(value, bool)
    if isinstance(default, int):
        return isinstance(value, int) and not isinstance(value, bool)
    if isinstance(default, float) or (isinstance(default, str) and default.startswith("lin_")):
        return isinstance(value, int | float) and not isinstance(value, bool)
    if isinstance(default, str):
        return isinstance(value, str | int | float) and not isinstance(value, bool)
    if isinstance(default, list):
        return isinstance(value, list) and all(_same_type(default[0], each) for each in value if default)
    return isinstance(value, Mapping)


def _type_name(default: Any) -> str:
    if isinstance(default, bool):
        return "true or false"
    if isinstance(default, int):
        return "a whole number"
    if isinstance(default, float) or (isinstance(default, str) and default.startswith("lin_")):
        return "a number"
    if isinstance(default, list):
        return f"a list of {_type_name(default[0]).removeprefix('a ')}s" if default else "a list"
    return "text" if isinstance(default, str) else "a mapping"
