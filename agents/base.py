"""What our agents add to Stable-Baselines3's: a constructor that names rules, and little else."""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from gymnasium import spaces
from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.common.on_policy_algorithm import OnPolicyAlgorithm
from stable_baselines3.common.type_aliases import GymEnv, Schedule
from stable_baselines3.common.utils import FloatSchedule, LinearSchedule
from stable_baselines3.common.vec_env import VecEnv

from agents.buffers import ModulatingDictRolloutBuffer, ModulatingRolloutBuffer
from agents.policy import RulePolicy
from agents.spaces import check_spaces, flatten_observation
from bio_rl import Rule
from bio_rl.rules import rule_class

# Each with the settings that SB3's agents give it.
OPTIMIZERS: dict[str, tuple[type[torch.optim.Optimizer], dict[str, Any]]] = {
    "adam": (torch.optim.Adam, {"eps": 1e-5}),
    "rmsprop": (torch.optim.RMSprop, {"alpha": 0.99, "eps": 1e-5}),
    "sgd": (torch.optim.SGD, {}),
}
SCHEDULED = ("learning_rate", "clip_range", "clip_range_vf")


class RuleAgent(OnPolicyAlgorithm):
    """An agent of Stable-Baselines3 whose networks learn by a rule.

    Args:
        env: an environment, several in a ``VecEnv``, or the id of one.
        rule, critic_rule, hidden, activation, shared_trunk: see ``RulePolicy``.
        ortho_init: orthogonal initial weights, as SB3 draws them.
        log_std_init: a Gaussian policy's initial log standard deviation.
        optimizer: ``adam``, ``rmsprop`` or ``sgd``; ``None`` for what SB3 gives this agent.
        optimizer_kwargs: the optimizer's settings, beyond those that SB3 gives it.
        critic_learning_rate: the critic's initial learning rate, which follows the actor's
            schedule; ``None`` for the actor's.
        policy: ``RulePolicy``, or a subclass of it.
        policy_kwargs: settings of SB3's policy that have no argument here, such as ``use_expln``.
        device: the CPU, where networks of this size are faster than on a GPU.
        **settings: any other of SB3's agent, under its name there. ``learning_rate`` and PPO's
            clip ranges may be written ``"lin_0.001"``, which falls linearly to 0.

    Raises:
        ValueError: an unknown rule, activation, optimizer or schedule, spaces that cannot be
            used, and whatever contradicts itself.
    """

    policy: RulePolicy

    def __init__(
        self,
        env: GymEnv | str | None,
        rule: str | Rule = "backprop",
        *,
        critic_rule: str | Rule | None = None,
        hidden: Sequence[int] = (64, 64),
        activation: str = "tanh",
        shared_trunk: bool = False,
        ortho_init: bool = True,
        log_std_init: float = 0.0,
        optimizer: str | None = None,
        optimizer_kwargs: Mapping[str, Any] | None = None,
        critic_learning_rate: float | None = None,
        policy: type[RulePolicy] = RulePolicy,
        policy_kwargs: Mapping[str, Any] | None = None,
        device: torch.device | str = "cpu",
        _init_setup_model: bool = True,
        **settings: Any,
    ):
        for given in (rule, rule if critic_rule is None else critic_rule):
            if not isinstance(given, Rule):
                rule_class(given)
        own_policy_kwargs = {
            "rule": rule,
            "critic_rule": critic_rule,
            "hidden": list(hidden),
            "activation": activation,
            "shared_trunk": shared_trunk,
            "ortho_init": ortho_init,
            "log_std_init": log_std_init,
            **_optimizer(optimizer, optimizer_kwargs),
        }
        scheduled = {name: _schedule(name, settings[name]) for name in SCHEDULED if name in settings}
        super().__init__(
            policy,
            env,  # type: ignore[arg-type]  # `load` gives None
            policy_kwargs=_merged(own_policy_kwargs, policy_kwargs or {}),
            device=device,
            _init_setup_model=False,
            **{**settings, **scheduled},
        )
        if critic_learning_rate is not None:
            self.policy_kwargs["critic_lr_ratio"] = critic_learning_rate / self._initial_learning_rate()
        if _init_setup_model:
            self._setup_model()

    def _setup_model(self) -> None:
        if self.rollout_buffer_class is None:
            is_dict = isinstance(self.observation_space, spaces.Dict)
            self.rollout_buffer_class = ModulatingDictRolloutBuffer if is_dict else ModulatingRolloutBuffer
        super()._setup_model()
        if isinstance(self.rollout_buffer, ModulatingRolloutBuffer):
            self.rollout_buffer.networks = list(self.policy.networks.values())

    def _initial_learning_rate(self) -> float:
        rate = FloatSchedule(self.learning_rate)(1.0)
        if not rate > 0:
            raise ValueError(f"critic_learning_rate needs a learning_rate that begins above 0, not at {rate}")
        return rate

    def _update_learning_rate(self, optimizers: list[torch.optim.Optimizer] | torch.optim.Optimizer) -> None:
        super()._update_learning_rate(optimizers)
        for group in self.policy.optimizer.param_groups:
            if "lr_ratio" in group:
                group["lr"] *= group["lr_ratio"]
                self.logger.record("train/critic_learning_rate", group["lr"])

    @staticmethod
    def _wrap_env(env: GymEnv, verbose: int = 0, monitor_wrapper: bool = True) -> VecEnv:
        if not isinstance(env, VecEnv):
            env = flatten_observation(env)
        check_spaces(env.observation_space, env.action_space)
        return BaseAlgorithm._wrap_env(env, verbose, monitor_wrapper)


def _optimizer(name: str | None, settings: Mapping[str, Any] | None) -> dict[str, Any]:
    """The policy's settings for an optimizer; none for SB3's own choice."""
    if name is None:
        if settings:
            raise ValueError(f"optimizer_kwargs need an optimizer: one of {', '.join(OPTIMIZERS)}")
        return {}
    if name not in OPTIMIZERS:
        raise ValueError(f"unknown optimizer {name!r}; known: {', '.join(OPTIMIZERS)}")
    optimizer_class, defaults = OPTIMIZERS[name]
    return {"optimizer_class": optimizer_class, "optimizer_kwargs": {**defaults, **(settings or {})}}


def _schedule(name: str, value: Any) -> float | Schedule | None:
    """``"lin_0.001"`` is rl-baselines3-zoo's way to write a schedule in YAML."""
    if not isinstance(value, str):
        return value
    try:
        prefix, start = value.split("_")
        if prefix == "lin":
            return LinearSchedule(float(start), 0.0, 1.0)
    except ValueError:
        pass
    raise ValueError(f"{name} must be a number, a function or a schedule such as 'lin_0.001', not {value!r}")


def _merged(own: dict[str, Any], given: Mapping[str, Any]) -> dict[str, Any]:
    if clash := sorted(own.keys() & given.keys()):
        raise ValueError(f"give {', '.join(clash)} to the agent itself, not in policy_kwargs")
    return {**own, **given}
