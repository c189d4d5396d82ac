"""Models on disk, without pickle: tensors as safetensors, everything else as YAML.

A folder holds ``policy.safetensors`` (every tensor of the policy, feedback weights and random
generators included), ``policy.yaml`` (what rebuilds the policy), and, where the agent's environment
is normalised, ``vec_normalize.safetensors`` and ``vec_normalize.yaml``. Loading reads data and calls
nothing but our own classes; an agent, a policy or a rule of your own is imported by its name,
``module:Class``, so Python must find it.

What training needs beyond the policy is not here: to go on with a training, use the agents'
``save`` and ``load``, or give its settings to ``load_model``.
"""

from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import torch
import yaml
from gymnasium import spaces
from safetensors.numpy import load_file as load_arrays
from safetensors.numpy import save_file as save_arrays
from safetensors.torch import load_file, save_file
from stable_baselines3.common.base_class import maybe_make_env
from stable_baselines3.common.policies import ActorCriticPolicy
from stable_baselines3.common.running_mean_std import RunningMeanStd
from stable_baselines3.common.type_aliases import GymEnv
from stable_baselines3.common.utils import check_for_correct_spaces
from stable_baselines3.common.vec_env import VecEnv, VecNormalize, unwrap_vec_normalize

from agents.a2c import A2C
from agents.base import RuleAgent, rule_policy
from agents.policy import RulePolicy
from agents.ppo import PPO
from agents.reinforce import REINFORCE
from bio_rl import Rule
from bio_rl.rule import rule_settings
from bio_rl.rules import rule_class, rule_names
from bio_rl.trust import Untrusted, check_names, imported, read_yaml

AGENTS: dict[str, type[RuleAgent]] = {"PPO": PPO, "A2C": A2C, "REINFORCE": REINFORCE}
POLICIES = {"RulePolicy": RulePolicy}
# Settings of a policy that say how it learns, not how it acts.
LEARNING = ("optimizer_class", "optimizer_kwargs", "critic_lr_ratio")
NORMALIZER = ("norm_obs", "norm_obs_keys", "norm_reward", "clip_obs", "clip_reward", "gamma", "epsilon")


def save_model(agent: RuleAgent, folder: str | Path, vec_normalize: VecNormalize | None = None) -> None:
    """Save an agent's policy, and the statistics by which its environment is normalised.

    Args:
        agent: a PPO, A2C or REINFORCE, or an agent of a class of your own made from one.
        folder: made if it is not there.
        vec_normalize: the normaliser; ``None`` for that of the agent's environment, if any.

    Raises:
        ValueError: an agent, a rule or a setting that cannot be written as data, or members, of which
            each is to be saved by itself.
    """
    if (count := len(agent.members)) > 1:
        raise ValueError(
            f"save_model saves one agent, not {count} members: save each of agent.members in its own folder"
        )
    folder = Path(folder)
    description = _yaml(_describe(agent))
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "policy.yaml").write_text(description)
    tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in agent.policy.state_dict().items()}
    save_file(tensors, folder / "policy.safetensors")
    normalizer = vec_normalize or agent.get_vec_normalize_env()
    if normalizer is not None:
        _save_normalizer(normalizer, folder)


def load_model(
    folder: str | Path, env: GymEnv | str | None = None, device: torch.device | str = "cpu", **settings: Any
) -> RuleAgent:
    """Rebuild an agent that ``save_model`` saved; it acts as it did, bit for bit.

    ``load_model("runs/.../seed=0").policy.activities(observations)["actor"]`` is how its actor's
    layers respond; see ``RulePolicy.activities``.

    Args:
        folder: where it was saved, or the folder of a run, which holds it as ``model``.
        env: an environment to act in. If the agent's was normalised, so is this one, as
            ``agent.get_env()``: by the saved statistics, which stay as they are, and with the
            task's own rewards. To train on, set ``training`` and ``norm_reward`` of
            ``agent.get_vec_normalize_env()``.
        device: where the policy goes.
        **settings: how to train on, as for the agent's constructor. With another ``rule`` the
            forward weights stay and its feedback is new, see ``RulePolicy.change_learning``.

    Raises:
        FileNotFoundError: there is no model in the folder, or a part of it is missing.
        TypeError: a setting that the agent has not.
        ValueError: a file that is not as ``save_model`` writes it, an environment whose spaces are
            not those of the agent's own, or a setting that the saved weights do not fit.
    """
    folder = _model_folder(Path(folder))
    description = _read(folder / "policy.yaml", read_yaml)
    try:
        agent_class, policy_class, policy_kwargs, use_sde, observation_space, action_space = _policy_from(
            description, most=_read(folder / "policy.safetensors", lambda path: path.stat().st_size)
        )
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        cause = error if isinstance(error, ValueError) else repr(error)
        raise ValueError(f"{folder / 'policy.yaml'} does not describe a policy: {cause}") from None
    if env is not None:
        env = _vectorised(agent_class, env)
        check_for_correct_spaces(env, observation_space, action_space)
        if (folder / "vec_normalize.yaml").exists():
            env = _load_normalizer(env, folder)
    agent = agent_class(env=env, device=device, _init_setup_model=False, **settings)
    if env is None:
        agent.observation_space, agent.action_space, agent.n_envs = observation_space, action_space, 1
    changes = agent._policy_changes(settings)
    learning = {name: agent.policy_kwargs[name] for name in LEARNING if name in agent.policy_kwargs}
    agent.policy_class, agent.use_sde, agent.policy_kwargs = policy_class, use_sde, {**learning, **policy_kwargs}
    tensors = _read(folder / "policy.safetensors", lambda path: load_file(path, device=str(agent.device)))
    try:
        agent._setup_model()
        agent.policy.load_state_dict(tensors)
    except (RuntimeError, TypeError) as error:
        raise ValueError(f"{folder}: policy.safetensors is not of the policy in policy.yaml: {_line(error)}") from None
    agent._change_policy(changes)
    return agent


def dump_space(space: spaces.Space[Any]) -> dict[str, Any]:
    """A space as plain data.

    Raises:
        ValueError: a kind of space that no agent takes.
    """
    match space:
        case spaces.Box():
            bounds = {"low": _bound(space.low), "high": _bound(space.high)}
            return {"type": "Box", **bounds, "shape": list(space.shape), "dtype": space.dtype.name}
        case spaces.Discrete():
            return {"type": "Discrete", "n": int(space.n), "start": int(space.start)}
        case spaces.MultiDiscrete():
            counts = {"nvec": space.nvec.tolist(), "start": space.start.tolist()}
            return {"type": "MultiDiscrete", **counts, "dtype": space.dtype.name}
        case spaces.MultiBinary():
            return {"type": "MultiBinary", "n": np.asarray(space.n).tolist()}
        case spaces.Dict():
            # A list, because the order counts.
            return {"type": "Dict", "spaces": [[key, dump_space(part)] for key, part in space.items()]}
        case spaces.Tuple():
            return {"type": "Tuple", "spaces": [dump_space(part) for part in space]}
    raise ValueError(f"space {space} cannot be saved")


def load_space(data: dict[str, Any]) -> spaces.Space[Any]:
    """The space that ``dump_space`` wrote.

    Raises:
        KeyError: data that lack an entry.
        ValueError: a kind of space that no agent takes.
    """
    match data["type"]:
        case "Box":
            shape, dtype = tuple(data["shape"]), np.dtype(data["dtype"])
            low, high = (np.broadcast_to(np.array(data[bound], dtype), shape) for bound in ("low", "high"))
            return spaces.Box(low, high, dtype=dtype.type)
        case "Discrete":
            return spaces.Discrete(data["n"], start=data["start"])
        case "MultiDiscrete":
            dtype = np.dtype(data["dtype"])
            return spaces.MultiDiscrete(np.array(data["nvec"], dtype), dtype.type, start=np.array(data["start"], dtype))
        case "MultiBinary":
            return spaces.MultiBinary(data["n"])
        case "Dict":
            return spaces.Dict([(key, load_space(part)) for key, part in data["spaces"]])
        case "Tuple":
            return spaces.Tuple([load_space(part) for part in data["spaces"]])
    raise ValueError(f"unknown space {data['type']!r}")


def _describe(agent: RuleAgent) -> dict[str, Any]:
    policy = agent.policy
    networks = policy.networks
    kwargs = {**agent.policy_kwargs, **policy.own_settings}
    kwargs["rule"] = _dump_rule(networks["shared" if "shared" in networks else "actor"].rule)
    if kwargs["critic_rule"] is not None:
        kwargs["critic_rule"] = _dump_rule(networks["critic"].rule)
    return {
        "agent": _name(type(agent), AGENTS, RuleAgent),
        "policy_class": _name(vars(type(policy)).get("sb3s_class", type(policy)), POLICIES, ActorCriticPolicy),
        "observation_space": dump_space(agent.observation_space),
        "action_space": dump_space(agent.action_space),
        "use_sde": agent.use_sde,
        "policy": {name: value for name, value in kwargs.items() if name not in LEARNING},
    }


def _policy_from(
    description: Any, most: int
) -> tuple[type[RuleAgent], type[RulePolicy], dict[str, Any], bool, Any, Any]:
    """What ``_describe`` wrote, as objects, none of which is larger than ``most`` bytes of weights allow."""
    agent_class = _class(description["agent"], AGENTS, RuleAgent)
    policy_class = rule_policy(_class(description["policy_class"], POLICIES, ActorCriticPolicy))
    kwargs = dict(description["policy"])
    for name in ("rule", "critic_rule"):
        if kwargs[name] is not None:
            kwargs[name] = _load_rule(kwargs[name])
    _check_layers(kwargs.get("hidden"), most)
    for name in ("observation", "action"):
        _check_space(description[f"{name}_space"], most)
    both = (load_space(description[f"{name}_space"]) for name in ("observation", "action"))
    return agent_class, policy_class, kwargs, bool(description["use_sde"]), *both


def _check_size(part: str, numbers: float, most: int) -> None:
    if numbers > most:
        raise ValueError(f"{part} of {numbers:g} numbers cannot be what {most} bytes of saved weights belong to")


def _check_layers(hidden: Any, most: int) -> None:
    """Refuse layers of more weights than ``most``; what are no layers at all is for the policy to say."""
    for widths in hidden.values() if isinstance(hidden, dict) else [hidden]:
        if isinstance(widths, list) and all(isinstance(width, int) for width in widths):
            _check_size(f"{len(widths)} layers", sum(below * above for below, above in pairwise([1, *widths])), most)


def _check_space(space: dict[str, Any], most: int) -> None:
    """Refuse a space as ``dump_space`` writes it that holds more numbers than ``most``."""
    for part in space.get("spaces", ()):
        _check_space(part[1] if space["type"] == "Dict" else part, most)
    numbers = np.sum(space["nvec"]) if "nvec" in space else np.prod(space.get("shape", space.get("n", 1)), dtype=float)
    _check_size(f"a space {space['type']}", float(numbers), most)


def _model_folder(folder: Path) -> Path:
    """The folder itself, or the model in the folder of a run.

    Raises:
        FileNotFoundError: neither holds a model.
    """
    for candidate in (folder, folder / "model"):
        if (candidate / "policy.yaml").is_file():
            return candidate
    raise FileNotFoundError(f"there is no model in {folder}: neither policy.yaml nor model/policy.yaml")


def _read(path: Path, read: Callable[[Path], Any]) -> Any:
    """What ``read`` makes of a file.

    Raises:
        FileNotFoundError: it is not there.
        ValueError: it cannot be read.
    """
    if not path.is_file():
        raise FileNotFoundError(f"the model in {path.parent} is not whole: it has no {path.name}")
    try:
        return read(path)
    except Exception as error:  # each format has its own
        raise ValueError(f"{path} cannot be read: {_line(error)}") from error


def _line(error: Exception) -> str:
    return " ".join(str(error).split())


def _name(kind: type, ours: dict[str, Any], base: type) -> str:
    """A class's name as data: ours by their own, others as ``module:Class``.

    Raises:
        ValueError: a class that cannot be found by its name.
    """
    if ours.get(kind.__name__) is kind:
        return kind.__name__
    name = f"{kind.__module__}:{kind.__qualname__}"
    try:
        found = _class(name, ours, base)
    except ValueError:
        found = None
    if found is not kind:
        raise ValueError(f"{kind.__qualname__} cannot be saved: {name} is not found again; define it in a module")
    return name


def _class(name: str, ours: dict[str, Any], base: type) -> Any:
    """The class of that name; a name is data, and only a class made from ``base`` is taken."""
    if name in ours:
        return ours[name]
    module, _, attribute = str(name).partition(":")
    try:
        found = getattr(imported(module), attribute)
    except (Untrusted, AttributeError) as error:
        raise ValueError(f"unknown {name!r}; known: {', '.join(ours)}, or module:Class ({error})") from None
    if not (isinstance(found, type) and issubclass(found, base)):
        raise ValueError(f"{name!r} is no subclass of {base.__module__}.{base.__name__}")
    return found


def _dump_rule(rule: Rule) -> dict[str, Any]:
    return {"name": _rule_name(type(rule)), "settings": rule_settings(rule)}


def _load_rule(saved: dict[str, Any]) -> Rule:
    # A name is data: `rule_class` finds only rules, but imports the module that it names.
    check_names(saved)
    return rule_class(saved["name"])(**saved["settings"])


def _rule_name(kind: type[Rule]) -> str:
    name = kind.__module__.rpartition(".")[2]
    if name in rule_names() and rule_class(name) is kind:
        return name
    return f"{kind.__module__}:{kind.__qualname__}"


def _bound(bound: np.ndarray) -> Any:
    """One number where all are equal."""
    values = np.unique(bound)
    return values[0].item() if len(values) == 1 else bound.tolist()


def _vectorised(agent_class: type[RuleAgent], env: GymEnv | str) -> VecEnv:
    return agent_class._wrap_env(maybe_make_env(env, verbose=0))


def _save_normalizer(normalizer: VecNormalize, folder: Path) -> None:
    (folder / "vec_normalize.yaml").write_text(_yaml({name: getattr(normalizer, name) for name in NORMALIZER}))
    arrays = {
        f"{name}.{moment}": np.asarray(getattr(statistics, moment), dtype=np.float64)
        for name, statistics in _statistics(normalizer).items()
        for moment in ("mean", "var", "count")
    }
    save_arrays(arrays, folder / "vec_normalize.safetensors")


def _load_normalizer(env: VecEnv, folder: Path) -> VecEnv:
    """The environment, normalised by the saved statistics, which it does not change."""
    settings = _read(folder / "vec_normalize.yaml", read_yaml)
    arrays = _read(folder / "vec_normalize.safetensors", load_arrays)
    normalizer = unwrap_vec_normalize(env)
    try:
        if normalizer is None:
            env = normalizer = VecNormalize(env, **settings)
        for name, statistics in _statistics(normalizer).items():
            for moment in ("mean", "var", "count"):
                saved = arrays[f"{name}.{moment}"]
                if saved.shape != np.shape(getattr(statistics, moment)) or saved.dtype != np.float64:
                    raise TypeError(f"{name}.{moment} is {saved.dtype} of shape {saved.shape}")
                if not np.isfinite(saved).all():
                    raise TypeError(f"{name}.{moment} is not finite")
                setattr(statistics, moment, saved)
        normalizer.normalize_obs(normalizer.venv.observation_space.sample())
    except (KeyError, TypeError) as error:
        raise ValueError(f"{folder}: the vec_normalize files are not as they were written: {error!r}") from None
    normalizer.training = normalizer.norm_reward = False
    return env


def _statistics(normalizer: VecNormalize) -> dict[str, RunningMeanStd]:
    statistics = {"returns": normalizer.ret_rms}
    if normalizer.norm_obs and isinstance(normalizer.obs_rms, dict):
        statistics |= {f"observations.{key}": value for key, value in normalizer.obs_rms.items()}
    elif normalizer.norm_obs:
        statistics["observations"] = normalizer.obs_rms
    return statistics


def _yaml(data: dict[str, Any]) -> str:
    try:
        return yaml.safe_dump(data, sort_keys=False)
    except yaml.representer.RepresenterError as error:
        raise ValueError(f"only plain data can be saved: {error}") from None
