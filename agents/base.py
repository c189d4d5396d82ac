"""What our agents add to Stable-Baselines3's: a constructor that names rules, and little else."""

import copy
import warnings
from abc import abstractmethod
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from functools import cache
from pathlib import Path
from typing import Any, ClassVar, Self

import numpy as np
import torch
from stable_baselines3.common.base_class import BaseAlgorithm, maybe_make_env
from stable_baselines3.common.buffers import RolloutBuffer
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.on_policy_algorithm import OnPolicyAlgorithm
from stable_baselines3.common.policies import (
    ActorCriticCnnPolicy,
    ActorCriticPolicy,
    BasePolicy,
    MultiInputActorCriticPolicy,
)
from stable_baselines3.common.type_aliases import GymEnv, MaybeCallback, Schedule
from stable_baselines3.common.utils import FloatSchedule, LinearSchedule, set_random_seed
from stable_baselines3.common.vec_env import VecEnv
from torch import Tensor, nn

from agents.learning import collect_rollout, learn_together
from agents.members import Members
from agents.policy import Layers, RulePolicy, Widths, check_arguments, is_sb3s, own_names
from agents.spaces import adapt_spaces, check_spaces
from bio_rl import Rule
from bio_rl.names import argument_names
from bio_rl.rules import rule_class
from bio_rl.seeding import Stream, derive_seeds
from bio_rl.tasks.vec_env import seed_copies

# Each with the settings that SB3's agents give it.
OPTIMIZERS: dict[str, tuple[type[torch.optim.Optimizer], dict[str, Any]]] = {
    "adam": (torch.optim.Adam, {"eps": 1e-5}),
    "rmsprop": (torch.optim.RMSprop, {"alpha": 0.99, "eps": 1e-5}),
    "sgd": (torch.optim.SGD, {}),
}
SCHEDULED = ("learning_rate", "clip_range", "clip_range_vf")
ROUNDING = 1e-12
"""By so much a schedule that ends at 0 may miss it."""


POLICY_ARGUMENTS: dict[str, tuple[str, ...]] = {
    **{name: (name,) for name in ("rule", "critic_rule", "critic_learning_rate", "hidden", "activation")},
    **{name: (name,) for name in ("frozen", "shared_trunk", "use_sde", "ortho_init", "log_std_init")},
    "policy": ("policy_class",),
    "policy_kwargs": (),
    "optimizer": ("optimizer_class", "optimizer_kwargs"),
    "optimizer_kwargs": ("optimizer_class", "optimizer_kwargs"),
    "baseline": ("critic",),
}
"""An agent's arguments that its policy is made of, and what each is called there."""
LEARNING = ("rule", "critic_rule", "frozen", "optimizer_class", "optimizer_kwargs", "critic_learning_rate")
"""What of a policy says how it learns, and may change in one that is loaded."""
ATTRIBUTES = {"n_episodes": "n_steps", "stats_window_size": "_stats_window_size"}
"""Arguments that an agent keeps under another name."""


class RuleAgent(OnPolicyAlgorithm):
    """An agent of Stable-Baselines3 whose networks learn by a rule.

    Args:
        policy: as SB3's first argument: ``"MlpPolicy"``, ``"MultiInputPolicy"``, or a subclass of
            ``RulePolicy``, which is what the names stand for, or of SB3's ``ActorCriticPolicy``,
            whose networks ``RulePolicy`` replaces. It may be left out: ``PPO("CartPole-v1")`` is
            ``PPO("MlpPolicy", "CartPole-v1")``.
        env: an environment, several in a ``VecEnv``, the id of one, or a function that makes them.
        members: how many agents learn together, this one with the given seed, the next with one more and
            so on; see ``members``, the attribute, which lists them.
        rule, critic_rule, hidden, activation, frozen, shared_trunk: see ``RulePolicy``.
        ortho_init: orthogonal initial weights, as SB3 draws them and unless told otherwise.
        log_std_init: a Gaussian policy's initial log standard deviation, 0 unless told otherwise.
        optimizer: ``adam``, ``rmsprop`` or ``sgd``; ``None`` for what SB3 gives this agent.
        optimizer_kwargs: the optimizer's settings, beyond those that SB3 gives it.
        critic_learning_rate: the critic's initial learning rate, which follows the actor's
            schedule; ``None`` for the actor's.
        policy_kwargs: settings of SB3's policy, under SB3's names: ``net_arch`` and
            ``activation_fn`` too, if ``hidden`` and ``activation`` are not given.
        device: the CPU, where networks of this size are faster than on a GPU.
        **settings: any other of SB3's agent, under its name there. ``learning_rate`` and PPO's
            clip ranges may be written ``"lin_0.001"``, which falls linearly to 0.

    Raises:
        TypeError: an argument that there is not.
        ValueError: an unknown policy, rule, activation, optimizer or schedule, a rule that does not
            assign what it should, spaces that cannot be used, and whatever contradicts itself.
    """

    policy: RulePolicy
    policy_aliases: ClassVar[dict[str, type[BasePolicy]]] = {"MlpPolicy": RulePolicy, "MultiInputPolicy": RulePolicy}
    default_log_interval: ClassVar[int] = 1
    in_step: ClassVar[bool] = True
    """Whether members take their environments' steps at the same time, and none waits for another."""
    iterations: int = 0
    """Rollouts of a training that a checkpoint holds, which the next ``learn`` counts on from."""
    _logs_update: bool = True
    """Whether anybody looks at the next update's scalars."""
    learns_apart: bool = False
    """Whether members update one by one, because their samples or their steps differ in number."""
    _others: Sequence["RuleAgent"] = ()
    _arguments: tuple[tuple[Any, ...], dict[str, Any]]

    def __new__(cls, *arguments: Any, **settings: Any) -> Self:
        agent = super().__new__(cls)
        # For the other members, which are made alike. They go once these are made.
        agent._arguments = arguments, settings
        return agent

    def __init__(
        self,
        policy: str | type[BasePolicy] | GymEnv | Callable[[], GymEnv] = RulePolicy,
        env: GymEnv | str | Callable[[], GymEnv] | None = None,
        *,
        members: int = 1,
        rule: str | Rule = "backprop",
        critic_rule: str | Rule | None = None,
        hidden: Widths | None = None,
        activation: str | type[nn.Module] | None = None,
        frozen: Layers | None = None,
        shared_trunk: bool | None = None,
        ortho_init: bool | None = None,
        log_std_init: float | None = None,
        optimizer: str | None = None,
        optimizer_kwargs: Mapping[str, Any] | None = None,
        critic_learning_rate: float | None = None,
        policy_kwargs: Mapping[str, Any] | None = None,
        device: torch.device | str = "cpu",
        _init_setup_model: bool = True,
        **settings: Any,
    ):
        chosen_policy, env = _policy_and_env(policy, env)
        _check_members(members, env)
        if callable(env):
            env = env()
        if env is None and _init_setup_model:
            raise ValueError(f"{type(self).__name__} needs an environment, or the id of one")
        _check_settings(
            type(self), settings, {"rule": rule, "critic_rule": rule if critic_rule is None else critic_rule}
        )
        optional = {
            "hidden": hidden,
            "activation": activation,
            "frozen": frozen,
            "shared_trunk": shared_trunk,
            "ortho_init": ortho_init,
            "log_std_init": log_std_init,
        }
        own_policy_kwargs = {
            "rule": rule,
            "critic_rule": critic_rule,
            **{name: value for name, value in optional.items() if value is not None},
            **_optimizer(optimizer, optimizer_kwargs),
        }
        scheduled = {name: _schedule(name, settings[name]) for name in SCHEDULED if name in settings}
        super().__init__(
            chosen_policy,
            env,
            policy_kwargs=_merged(own_policy_kwargs, policy_kwargs or {}),
            device=device,
            _init_setup_model=False,
            **{**settings, **scheduled},
        )
        self._highest_rate = 0.0
        if critic_learning_rate is not None:
            self.policy_kwargs["critic_lr_ratio"] = critic_learning_rate / self._initial_learning_rate()
        if _init_setup_model:
            self._setup_model()

    def _setup_model(self) -> None:
        # Here rather than in the constructor, so that they may also be those of a zip that SB3's own agent saved.
        self.policy_class = rule_policy(self.policy_class)
        self.policy_kwargs = own_names(self.policy_kwargs)
        super()._setup_model()
        _check_advantages(self)
        self.policy.probe()
        # Random numbers of its own, which go on where the initial weights' end: as in SB3, but for no one else's.
        self.generator = torch.Generator(self.device)
        if self.device.type == "cpu":
            self.generator.set_state(torch.get_rng_state())
        else:
            self.generator.manual_seed(torch.initial_seed())
        self.minibatch_order = np.random.RandomState()
        self.minibatch_order.set_state(np.random.get_state(legacy=True))  # noqa: NPY002 (SB3 draws from the global one)
        arguments, settings = vars(self).pop("_arguments")
        seeds: list[int | None] = [None] * settings.pop("members", 1)
        if self.seed is not None:
            seeds = [self.seed + number for number in range(len(seeds))]
        self._others = [type(self)(*arguments, **{**settings, "seed": seed}) for seed in seeds[1:]]

    def set_random_seed(self, seed: int | None = None) -> None:
        """Seed everything that is random: see ``bio_rl.seeding``.

        Unlike in SB3, no two seeds share a random number, nor do two copies of the environment.
        """
        if seed is None:
            return
        (own,) = derive_seeds(seed, Stream.AGENT, 1)
        set_random_seed(own, using_cuda=self.device.type == "cuda")
        self.action_space.seed(own)
        if self.env is not None:
            seed_copies(self.env, derive_seeds(seed, Stream.ENVIRONMENTS, self.env.num_envs))

    def _make_rollout_buffer(self, n_envs: int) -> RolloutBuffer:
        assert self.rollout_buffer_class is not None
        return self.rollout_buffer_class(
            self.n_steps,
            self.observation_space,
            self.action_space,
            device=self.device,
            gamma=self.gamma,
            gae_lambda=self.gae_lambda,
            n_envs=n_envs,
            **self.rollout_buffer_kwargs,
        )

    @property
    def members(self) -> list["RuleAgent"]:
        """The agents that learn together, this one first.

        Each is an ordinary agent, with environments, a seed and a logger of its own: it acts, is evaluated
        and saved like any other, and learns together with the others what it would learn alone.
        """
        return [self, *self._others]

    def _excluded_save_params(self) -> list[str]:
        return [*super()._excluded_save_params(), "generator", "_others", "_arguments"]

    def save(self, path: Any, exclude: Iterable[str] | None = None, include: Iterable[str] | None = None) -> None:
        """As SB3's; an agent with members is saved as a folder, with a zip for each, which ``load`` takes too."""
        if not self._others:
            super().save(path, exclude, include)
            return
        for number, member in enumerate(self.members):
            OnPolicyAlgorithm.save(member, Path(path) / f"member={number}.zip", exclude, include)

    def learn(
        self,
        total_timesteps: int,
        callback: MaybeCallback = None,
        log_interval: int | None = -1,
        tb_log_name: str | None = None,
        reset_num_timesteps: bool = True,
        progress_bar: bool = False,
    ) -> Self:
        """As SB3's; an agent with members trains them all.

        Args:
            total_timesteps: of each member.
            callback: each member gets a copy of its own.
            log_interval: -1 for SB3's default.
            tb_log_name: the agent's name by default.
            reset_num_timesteps, progress_bar: as in SB3.

        Raises:
            BaseExceptionGroup: what ended members before their time, after the others have learnt all.
        """
        failures = learn_together(
            self.members,
            total_timesteps,
            [callback, *(copy.deepcopy(callback) for _ in self._others)],
            log_interval,
            tb_log_name,
            reset_num_timesteps,
            progress_bar,
        )
        if failures:
            which = ", ".join(map(str, failures))
            raise BaseExceptionGroup(f"of {len(self.members)} members, {which} did not finish", list(failures.values()))
        return self

    def collect_rollouts(
        self, env: VecEnv, callback: BaseCallback, rollout_buffer: RolloutBuffer, n_rollout_steps: int
    ) -> bool:
        """Collect experiences with this agent alone, as SB3's method of the name.

        Args:
            env, rollout_buffer, n_rollout_steps: the agent's own; they are here for SB3's sake.
            callback: sees every step.

        Returns:
            Whether training goes on: ``False`` if the callback ended it.
        """
        members = Members([self])
        self._collect(members, {0: callback})
        return members.learning[0]

    def train(self) -> None:
        """Learn from the rollout buffer with this agent alone, as SB3's method of the name."""
        members = Members([self])
        members.logs = self._logs_update
        self._update(members)

    def _collect(self, members: Members, callbacks: dict[int, BaseCallback]) -> None:
        """Fill the members' rollout buffer."""
        collect_rollout(members, callbacks, members.rollout_buffer, self.n_steps)

    @abstractmethod
    def _update(self, members: Members) -> None:
        """Learn from the members' rollout buffer, and log."""

    @abstractmethod
    def _loss_of_samples(self, members: Members, count: int) -> Tensor | None:
        """The loss of at most ``count`` samples of the rollout that this agent holds alone; ``None`` if it has none.

        It differs from that of an update's first minibatch by which samples these are, and in nothing else. Only
        what is computed is asked for: no step is made, nothing is logged.
        """

    def _maybe_recommend_cpu(self, mlp_class_name: str = RulePolicy.__name__) -> None:
        super()._maybe_recommend_cpu(mlp_class_name)

    def _get_policy_from_name(self, policy_name: str) -> type[BasePolicy]:
        if policy_name not in self.policy_aliases:
            raise ValueError(_no_policy(policy_name))
        return super()._get_policy_from_name(policy_name)

    @classmethod
    def load(
        cls,
        path: str | Path | Any,
        env: GymEnv | str | None = None,
        device: torch.device | str = "cpu",
        custom_objects: dict[str, Any] | None = None,
        print_system_info: bool = False,
        force_reset: bool = True,
        **settings: Any,
    ) -> Self:
        """Load what ``save`` wrote, to act or to go on learning.

        A zip of Stable-Baselines3's own agent loads too: its weights, with the rule that is given,
        or backprop. The optimizer then begins anew.

        Args:
            path, env, device, custom_objects, print_system_info, force_reset: as in SB3.
            **settings: arguments of the constructor, to go on with others than were saved. With
                another ``rule`` the forward weights stay and its feedback is new, see
                ``RulePolicy.change_learning``; a critic that had a rule of its own keeps it.

        Raises:
            TypeError: an argument that there is not.
            ValueError: a setting that cannot be had, or that the saved weights do not fit, such
                as other widths; an environment with other spaces; an agent of another kind.
        """
        if isinstance(path, str | Path) and (files := list(Path(path).glob("member=*.zip"))):
            files.sort(key=lambda file: int(file.stem.removeprefix("member=")))
            options = (device, custom_objects, print_system_info, force_reset)
            first, *others = (cls.load(file, env, *options, **settings) for file in files)
            first._others = others
            return first
        asked = cls(env=None, _init_setup_model=False, **settings)
        attributes = {}
        for name in settings.keys() - POLICY_ARGUMENTS.keys():
            attribute = ATTRIBUTES.get(name, name)
            if attribute not in vars(asked):
                raise ValueError(f"{name} cannot be changed in an agent that is loaded")
            attributes[attribute] = vars(asked)[attribute]
        agent = super().load(
            path,
            None if env is None else maybe_make_env(env, verbose=0),
            device,
            custom_objects,
            print_system_info,
            force_reset,
            **attributes,
        )
        # An agent of whole episodes and one of so many steps can learn from nothing but their own buffers.
        if not isinstance(agent.rollout_buffer, asked.rollout_buffer_class or RolloutBuffer):
            held = type(agent.rollout_buffer).__name__
            raise ValueError(
                f"{cls.__name__} cannot go on with a saved agent that learns from a {held}: load it by its own class"
            )
        agent._change_policy(asked._policy_changes(settings))
        return agent

    def set_parameters(
        self, load_path_or_dict: Any, exact_match: bool = True, device: torch.device | str = "auto"
    ) -> None:
        """As SB3's; from the parameters of SB3's own agent come the weights, and the optimizer begins anew."""
        if isinstance(load_path_or_dict, dict) and is_sb3s(load_path_or_dict.get("policy", {})):
            self.policy.optimizer.state.clear()
            load_path_or_dict = {**load_path_or_dict, "policy.optimizer": self.policy.optimizer.state_dict()}
        super().set_parameters(load_path_or_dict, exact_match, device)

    def _initial_learning_rate(self) -> float:
        rate = FloatSchedule(self.learning_rate)(1.0)
        if not rate > 0:
            raise ValueError(f"critic_learning_rate needs a learning_rate that begins above 0, not at {rate}")
        return rate

    def _setup_learn(self, *arguments: Any, **settings: Any) -> Any:
        self._highest_rate = 0.0
        return super()._setup_learn(*arguments, **settings)

    def _update_current_progress_remaining(self, num_timesteps: int, total_timesteps: int) -> None:
        # The last rollout goes beyond the total, and SB3's schedules with it, to rates that learn uphill.
        super()._update_current_progress_remaining(min(num_timesteps, total_timesteps), total_timesteps)

    def _update_learning_rate(self, optimizers: list[torch.optim.Optimizer] | torch.optim.Optimizer) -> None:
        progress = self._current_progress_remaining
        rate = self.lr_schedule(progress)
        if not rate >= -ROUNDING:
            raise ValueError(f"learning_rate fell to {rate} with {progress:.0%} of the training left: it must not")
        self._highest_rate = max(rate, self._highest_rate)
        if progress == 0 == self._highest_rate:
            warnings.warn(
                f"nothing was learnt: the learning rate was 0 at every update up to the last, at {self.num_timesteps} "
                "timesteps; a schedule that falls to 0 needs more than one rollout",
                stacklevel=2,
            )
        super()._update_learning_rate(optimizers)
        for optimizer in optimizers if isinstance(optimizers, list) else [optimizers]:
            for group in optimizer.param_groups:
                group["lr"] = max(0.0, group["lr"])
                if "lr_ratio" in group:
                    group["lr"] *= group["lr_ratio"]
                    self.logger.record("train/critic_learning_rate", group["lr"])

    def _policy_changes(self, settings: Mapping[str, Any]) -> dict[str, Any]:
        """What those settings, of all that this agent was given, say of its policy, under the policy's names."""
        policy_class, rate = rule_policy(self.policy_class), settings.get("critic_learning_rate")
        all_settings = {"policy_class": policy_class, "use_sde": self.use_sde, "critic_learning_rate": rate}
        all_settings |= own_names(self.policy_kwargs)
        names = {name for argument in settings for name in POLICY_ARGUMENTS.get(argument, ())}
        names |= own_names(settings.get("policy_kwargs") or {}).keys()
        return {name: all_settings[name] for name in names & all_settings.keys()}

    def _change_policy(self, changes: Mapping[str, Any]) -> None:
        """Change how a loaded agent's policy learns.

        Raises:
            ValueError: a change of what it computes.
        """
        saved = {**self.policy._get_constructor_parameters(), "policy_class": self.policy_class}
        for name in changes.keys() - set(LEARNING):
            value = saved.get(name, getattr(self.policy, name, None))
            if changes[name] != value:
                raise ValueError(
                    f"{name}={changes[name]!r} does not fit the saved agent, whose {name} is {value!r}: "
                    "how it learns can change, not what it computes"
                )
        learning = {name: changes[name] for name in LEARNING if name in changes}
        if "critic_learning_rate" in learning:
            rate = learning.pop("critic_learning_rate")
            learning["critic_lr_ratio"] = 1.0 if rate is None else rate / self._initial_learning_rate()
        if learning:
            self.policy.change_learning(self.lr_schedule(1.0), **learning)
            self.policy.probe()
            self.policy_kwargs.update(learning)

    @staticmethod
    def _wrap_env(env: GymEnv, verbose: int = 0, monitor_wrapper: bool = True) -> VecEnv:
        if not isinstance(env, VecEnv):
            env = adapt_spaces(env)
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


def _policy_and_env(policy: Any, env: Any) -> tuple[Any, Any]:
    """SB3's first two arguments, of which the policy may be left out.

    Raises:
        ValueError: two arguments, of which the first is no policy.
    """
    if (isinstance(policy, str) and policy.endswith("Policy")) or isinstance(policy, type):
        return policy, env
    if env is not None:
        raise ValueError(f"{policy!r} is no policy: give an environment, or a policy such as 'MlpPolicy' before it")
    return RulePolicy, policy


def _check_members(members: Any, env: Any) -> None:
    """Raise a ValueError if there cannot be so many members in this environment."""
    if isinstance(members, bool) or not isinstance(members, int) or members < 1:
        raise ValueError(f"members must be a whole number of at least 1, not {members!r}")
    if members > 1 and not (isinstance(env, str) or callable(env)):
        raise ValueError(
            f"members={members}: each needs environments of its own; give the id of one, or a function that makes them"
        )


def _check_advantages(agent: RuleAgent) -> None:
    """Raise a ValueError if advantages would be normalised that stand alone: one sample has no spread to divide by."""
    steps = getattr(agent.rollout_buffer, "buffer_size", None)
    if steps is None or not getattr(agent, "normalize_advantage", False):
        return
    rollout = steps * agent.n_envs
    minibatch = getattr(agent, "batch_size", rollout)
    if rollout % minibatch == 1 or rollout == 1:
        raise ValueError(
            f"normalize_advantage cannot normalise a single advantage: of {rollout} samples "
            f"(n_steps x n_envs) in minibatches of {minibatch} the last has one"
        )


@cache
def rule_policy(policy: type[BasePolicy]) -> type[RulePolicy]:
    """The class with networks that learn by a rule in the place of SB3's.

    A subclass of SB3's ``ActorCriticPolicy`` keeps what it overrides, above ``RulePolicy``.

    Raises:
        ValueError: a policy that builds networks of its own, that changes what only SB3's training
            would call, or that is no actor-critic.
    """
    if issubclass(policy, ActorCriticPolicy):
        base = RulePolicy if issubclass(policy, RulePolicy) else ActorCriticPolicy
        for method in ("forward", "evaluate_actions", "predict_values", "get_distribution", "reset_noise"):
            if getattr(policy, method) is not getattr(base, method):
                raise ValueError(
                    f"{policy.__name__} cannot be used: training goes by the networks, and would not call its {method}"
                )
    if issubclass(policy, RulePolicy):
        return policy
    if policy in (ActorCriticPolicy, MultiInputActorCriticPolicy):
        return RulePolicy
    if not issubclass(policy, ActorCriticPolicy) or issubclass(policy, ActorCriticCnnPolicy):
        raise ValueError(_no_policy("CnnPolicy" if policy is ActorCriticCnnPolicy else policy.__name__))
    for method in ("_build", "_build_mlp_extractor", "extract_features"):
        if getattr(policy, method) is not getattr(ActorCriticPolicy, method):
            raise ValueError(f"{policy.__name__} cannot be used: its {method} builds what no rule would teach")
    return type(policy.__name__, (policy, RulePolicy), {"__module__": policy.__module__, "sb3s_class": policy})


def _no_policy(name: str) -> str:
    reason = ": networks have no convolutions yet" if name == "CnnPolicy" else ""
    return f"{name} cannot be used{reason}; MlpPolicy, which flattens images, MultiInputPolicy and RulePolicy can"


def _check_settings(kind: type[RuleAgent], settings: Mapping[str, Any], rules: Mapping[str, str | Rule]) -> None:
    """Refuse an argument that an agent has not, and say where it belongs, before anything is built.

    Raises:
        TypeError: an argument of the rule, of the policy, or of nothing.
        ValueError: there is no such rule.
    """
    classes = {argument: type(rule) if isinstance(rule, Rule) else rule_class(rule) for argument, rule in rules.items()}
    for name in settings.keys() - set(argument_names(kind) or ()):
        start, written = f"{kind.__name__} has no argument {name!r}", f"{name}={settings[name]!r}"
        for argument, rule in classes.items():
            if name in (argument_names(rule) or ()):
                given = rules[argument]
                made = f"make_rule({given!r}, {written})" if isinstance(given, str) else f"{rule.__name__}({written})"
                raise TypeError(f"{start}; it is the rule's: {argument}={made}")
        if name in (argument_names(RulePolicy) or ()):
            raise TypeError(f"{start}; it is the policy's: policy_kwargs=dict({written})")
    check_arguments(kind, settings)


def _schedule(name: str, value: Any) -> float | Schedule | None:
    """A number or a function as it is; ``"lin_0.001"`` is rl-baselines3-zoo's way to write a schedule in YAML.

    Raises:
        ValueError: neither, or one that begins or ends below 0.
    """
    schedule = value
    if isinstance(value, str) and value.startswith("lin_"):
        with suppress(ValueError):
            schedule = LinearSchedule(float(value.removeprefix("lin_")), 0.0, 1.0)
    if name == "clip_range_vf" and (schedule is None or isinstance(schedule, int | float)):
        return schedule  # SB3 checks this one itself
    if not (callable(schedule) or isinstance(schedule, int | float)):
        raise ValueError(f"{name} must be a number, a function or a schedule such as 'lin_0.001', not {value!r}")
    for progress, where in ((1.0, "beginning"), (0.0, "end")):
        if not (number := FloatSchedule(schedule)(progress)) >= -ROUNDING:
            raise ValueError(f"{name} must not be below 0, and is {number} at the {where} of the training")
    return schedule


def _merged(own: dict[str, Any], given: Mapping[str, Any]) -> dict[str, Any]:
    if clash := sorted(own.keys() & given.keys()):
        raise ValueError(f"give {', '.join(clash)} to the agent itself, not in policy_kwargs")
    return {**own, **given}
