"""The actor-critic policy: Stable-Baselines3's own, around networks that learn by a rule.

SB3 draws its modules and their initial weights as ever; they are then turned into ``Network``s,
so that a seed gives the weights that it gives in SB3. Everything else, from the distribution of
actions to ``predict``, stays SB3's.
"""

import copy
import inspect
import warnings
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from gymnasium import spaces
from stable_baselines3.common.distributions import Distribution, StateDependentNoiseDistribution
from stable_baselines3.common.policies import ActorCriticPolicy
from stable_baselines3.common.torch_layers import CombinedExtractor, FlattenExtractor
from stable_baselines3.common.type_aliases import Schedule
from torch import Tensor, nn

from agents.spaces import FlattenDictExtractor, check_spaces, in_own_memory
from bio_rl import Network, Rule, make_rule
from bio_rl.activations import ACTIVATIONS, find_activation
from bio_rl.names import argument_names, nearest
from bio_rl.rule import rule_settings

EXTRACTOR_SETTINGS: dict[str, tuple[Any, ...]] = {
    "features_extractor_class": (None, FlattenExtractor, CombinedExtractor, FlattenDictExtractor),
    "features_extractor_kwargs": (None, {}),
}
"""What SB3's users choose a feature extractor with, and the values that mean flattening."""

Widths = Sequence[int] | Mapping[str, Sequence[int]]
"""Neurons of each hidden layer: of both networks alike, or of ``actor`` and ``critic`` apart."""
Layers = Sequence[int] | Mapping[str, Sequence[int]]
"""Numbers of layers: of both networks alike, or of ``actor`` and ``critic`` apart."""


class RulePolicy(ActorCriticPolicy):
    """An actor and a critic, each a ``Network`` that learns by a rule.

    Nothing else learns, but for a Gaussian's log standard deviation: a parameter at the output,
    which gets its own output error. It can stand in for ``"MlpPolicy"`` in Stable-Baselines3's
    agents; its own settings are then their ``policy_kwargs``.

    Args:
        observation_space: flattened without learnt weights, see ``agents.spaces``.
        action_space: Box, Discrete, MultiDiscrete or MultiBinary.
        lr_schedule: the learning rate for the progress remaining, 1 to 0.
        rule: the actor's rule: a name, ``module:Class``, or a rule object that belongs to no
            network; every network gets a copy of its own.
        critic_rule: the critic's; ``None`` for the actor's.
        hidden: neurons of each hidden layer, ``[64, 64]`` if ``None``; or the actor's and the
            critic's apart, as ``{"actor": [64], "critic": [256, 256]}``.
        activation: the hidden layers', by its name in ``bio_rl.activations`` or by its torch class;
            ``None`` for tanh.
        frozen: the layers that do not learn, by their numbers: from 1, at the input, or from -1, at the output;
            or the actor's and the critic's apart, as ``{"actor": [-1], "critic": []}``. ``None`` for none.
        shared_trunk: one network for both, whose output is the actor's and then the value.
        critic: whether there is one; without, every value is 0.
        critic_lr_ratio: the critic's learning rate as a multiple of the actor's.
        **settings: any other of SB3's ``ActorCriticPolicy``, whose ``net_arch`` and
            ``activation_fn`` are ``hidden`` and ``activation`` here.

    Raises:
        TypeError: a setting that there is not.
        ValueError: spaces that cannot be used, an unknown rule or activation, a layer without
            neurons, a frozen layer that there is not, a learnt feature extractor, or settings of a
            critic where there is none apart from the actor.
    """

    def __init__(
        self,
        observation_space: spaces.Space,
        action_space: spaces.Space,
        lr_schedule: Schedule,
        rule: str | Rule = "backprop",
        critic_rule: str | Rule | None = None,
        hidden: Widths | None = None,
        activation: str | type[nn.Module] | None = None,
        frozen: Layers | None = None,
        shared_trunk: bool = False,
        critic: bool = True,
        critic_lr_ratio: float = 1.0,
        **settings: Any,
    ):
        check_spaces(observation_space, action_space)
        check_arguments(type(self), settings)
        settings = own_names({"hidden": hidden, "activation": activation, "frozen": frozen, **settings})
        widths, activation_name = settings.pop("hidden", [64, 64]), settings.pop("activation", "tanh")
        layers = settings.pop("frozen", [])
        separate = isinstance(widths, dict)
        if shared_trunk and not critic:
            raise ValueError("a shared trunk has a value head; shared_trunk=True needs a critic to use it")
        if separate and (shared_trunk or not critic):
            raise ValueError("hidden tells actor and critic apart, but this agent has no critic network: give one list")
        _check_critic(critic and not shared_trunk, critic_rule, critic_lr_ratio)
        _check_frozen(layers, shared_trunk, critic)
        super().__init__(
            observation_space,
            action_space,
            lr_schedule,
            net_arch={"pi": widths["actor"], "vf": widths["critic"]} if separate else widths,
            activation_fn=find_activation(activation_name).module,
            features_extractor_class=_extractor_class(observation_space),
            **settings,
        )
        # As a plain dict, so that a rule which only serves as a pattern is not one of our modules.
        self.own_settings = {
            "rule": rule,
            "critic_rule": critic_rule,
            "hidden": widths,
            "activation": activation_name,
            "frozen": layers,
            "shared_trunk": shared_trunk,
            "critic": critic,
            "critic_lr_ratio": critic_lr_ratio,
        }
        # What the conversion draws must not shift the random numbers that follow.
        with torch.random.fork_rng(devices=[]):
            self.mlp_extractor = self._networks()  # type: ignore[assignment]
        self._freeze(layers)
        self.action_net = self.value_net = nn.Identity()  # type: ignore[assignment]
        self.optimizer = self.make_optimizer(self._parameter_groups(lr_schedule(1)))

    own_settings: dict[str, Any]
    """What the constructor was given, beyond SB3's settings, in the form that it is used in."""

    @property
    def networks(self) -> dict[str, Network]:
        """The networks by what they are: ``actor`` and, if there is one, ``critic``; or ``shared``."""
        return {name: net for name, net in self.mlp_extractor.named_children() if isinstance(net, Network)}

    def obs_to_tensor(self, observation: Any) -> tuple[Any, bool]:
        """As SB3's, in memory of its own."""
        tensors, is_batch = super().obs_to_tensor(observation)
        return in_own_memory(tensors), is_batch

    def activities(self, observation: np.ndarray | dict[str, np.ndarray]) -> dict[str, Sequence[Tensor]]:
        """Every layer's activity of each network, for observations as ``predict`` takes them.

        ``agent.policy.activities(observations)["actor"][1]`` is what the actor's first hidden layer
        does, of a trained or a loaded agent (see ``load_model``). Where the agent's environment is
        normalised, so must the observations be: ``agent.get_vec_normalize_env().normalize_obs(...)``.

        Args:
            observation: one observation, or a batch of them.

        Returns:
            For each of ``networks`` its activities, each ``(batch, features)``: the flattened
            observation first, the output last.
        """
        with torch.no_grad():
            features = self.extract_features(self.obs_to_tensor(observation)[0])
        if isinstance(features, tuple):
            features = features[0]  # the same for both: flattening has no weights
        return {name: network.activities(features) for name, network in self.networks.items()}

    def change_learning(self, learning_rate: float, **changes: Any) -> None:
        """Go on learning by another rule or optimizer. What the networks compute stays as it is.

        A network whose rule changes keeps its forward weights; the rule's own feedback is made
        anew, and so is the optimizer's state, whose moments are of the old rule's updates.

        Args:
            learning_rate: the optimizer's, until the agent sets it.
            **changes: of ``rule``, ``critic_rule``, ``frozen``, ``critic_lr_ratio``, ``optimizer_class`` and
                ``optimizer_kwargs`` those that change.

        Raises:
            ValueError: an unknown rule, a frozen layer that there is not, or settings of a critic where there
                is none.
        """
        own = {**self.own_settings, **{name: changes[name] for name in changes.keys() & self.own_settings.keys()}}
        _check_critic("critic" in self.networks, own["critic_rule"], own["critic_lr_ratio"])
        _check_frozen(own["frozen"], own["shared_trunk"], own["critic"])
        self.own_settings = own
        states = self.optimizer.state
        with torch.random.fork_rng(devices=[]):
            for name, network in self.networks.items():
                rule = _copy(self._rule_of(name))
                if not _same(rule, network.rule):
                    for parameter in network.parameters():
                        states.pop(parameter, None)
                    setattr(self.mlp_extractor, name, _with_rule(network, rule))
        self._freeze(own["frozen"])
        before = self.optimizer_class, self.optimizer_kwargs
        self.optimizer_class = changes.get("optimizer_class", self.optimizer_class)
        self.optimizer_kwargs = changes.get("optimizer_kwargs", self.optimizer_kwargs)
        self.optimizer = self.make_optimizer(self._parameter_groups(learning_rate))
        if (self.optimizer_class, self.optimizer_kwargs) == before:
            learning = {parameter for group in self.optimizer.param_groups for parameter in group["params"]}
            self.optimizer.state.update({each: state for each, state in states.items() if each in learning})

    def probe(self) -> None:
        """Refuse a rule that does not assign what it should, before anything is learnt: see ``Network.probe``."""
        for network in self.networks.values():
            network.probe()

    def load_state_dict(self, state_dict: Mapping[str, Any], strict: bool = True, assign: bool = False) -> Any:
        """As ever; of one that Stable-Baselines3's own policy left, the weights, and no feedback."""
        if is_sb3s(state_dict):
            state_dict = {**self.state_dict(), **_renamed(state_dict)}
        return super().load_state_dict(state_dict, strict, assign)

    def _freeze(self, layers: Layers) -> None:
        for name, network in self.networks.items():
            try:
                network.freeze(layers.get(name, []) if isinstance(layers, Mapping) else layers)
            except ValueError as error:
                raise ValueError(f"frozen={layers} in the {name} network: {error}") from None

    def _rule_of(self, network: str) -> str | Rule:
        own = self.own_settings
        return own["critic_rule"] if network == "critic" and own["critic_rule"] is not None else own["rule"]

    def make_optimizer(self, groups: list[dict[str, Any]]) -> torch.optim.Optimizer:
        """The policy's kind of optimizer, with its settings, for any parameters."""
        settings = {**_fastest(self.optimizer_class), **self.optimizer_kwargs}
        return self.optimizer_class(groups, lr=groups[0]["lr"], **settings)  # type: ignore[call-arg]

    def _networks(self) -> nn.Module:
        """SB3's modules as networks with the same weights."""
        own, sde = self.own_settings, self.use_sde
        extractor, action_net, value_net = self.mlp_extractor, self.action_net, self.value_net
        assert isinstance(action_net, nn.Linear)
        if own["shared_trunk"]:
            head = _stack(action_net, value_net)
            shared = Network.from_sequential(nn.Sequential(*extractor.policy_net, head), _copy(self._rule_of("shared")))
            return _SharedNetwork(shared, action_net.out_features, sde)
        actor = Network.from_sequential(nn.Sequential(*extractor.policy_net, action_net), _copy(self._rule_of("actor")))
        if not own["critic"]:
            return _SeparateNetworks(actor, _NoCritic(), sde)
        critic = Network.from_sequential(nn.Sequential(*extractor.value_net, value_net), _copy(self._rule_of("critic")))
        return _SeparateNetworks(actor, critic, sde)

    def _parameter_groups(self, learning_rate: float) -> list[dict[str, Any]]:
        learning = {name: p for name, p in self.named_parameters() if p.requires_grad}
        ratio = self.own_settings["critic_lr_ratio"]
        if ratio == 1:
            return [{"params": list(learning.values()), "lr": learning_rate}]
        critic = [learning.pop(name) for name in list(learning) if name.startswith("mlp_extractor.critic.")]
        return [
            {"params": list(learning.values()), "lr": learning_rate},
            {"params": critic, "lr": learning_rate * ratio, "lr_ratio": ratio},
        ]

    def forward(self, obs: Tensor, deterministic: bool = False) -> tuple[Tensor, Tensor, Tensor]:
        """Actions, values and the actions' log-probabilities."""
        with _unchecked_distributions():
            return super().forward(obs, deterministic)

    def evaluate_actions(self, obs: Any, actions: Tensor) -> tuple[Tensor, Tensor, Tensor | None]:
        """Values, and the log-probabilities and entropies of actions that were taken."""
        with _unchecked_distributions():
            return super().evaluate_actions(obs, actions)

    def _get_action_dist_from_latent(self, latent_pi: Any) -> Distribution:
        if isinstance(self.action_dist, StateDependentNoiseDistribution):
            means, hidden = latent_pi
            return self.action_dist.proba_distribution(means, self.log_std, hidden)
        return super()._get_action_dist_from_latent(latent_pi)

    def _get_constructor_parameters(self) -> dict[str, Any]:
        sb3s = super()._get_constructor_parameters()
        for name in ("net_arch", "activation_fn", "features_extractor_class", "features_extractor_kwargs"):
            del sb3s[name]
        return {**sb3s, **self.own_settings}


def check_arguments(kind: type, given: Iterable[str]) -> None:
    """Refuse a keyword that neither a class's constructor takes nor those that it hands it on to.

    Raises:
        TypeError: as Python's, with the nearest name that there is.
    """
    known = [name for name in argument_names(kind) or () if not name.startswith("_")]
    for name in given:
        if name not in known:
            raise TypeError(f"{kind.__name__} has no argument {name!r}{nearest(name, known)}")


def own_names(settings: Mapping[str, Any]) -> dict[str, Any]:
    """A policy's settings as they are called and written here.

    ``net_arch`` becomes ``hidden`` and ``activation_fn`` becomes ``activation``; they are left out
    where they are ``None``. SB3's extractors that only flatten go without saying.

    Raises:
        ValueError: a learnt feature extractor, widths, frozen layers or an activation that cannot be, or
            one of them under both of its names.
    """
    own = dict(settings)
    for name, flattening in EXTRACTOR_SETTINGS.items():
        if own.pop(name, None) not in flattening:
            raise ValueError(
                f"{name}={settings[name]!r}: observations are flattened; "
                "learnt feature extractors are not there yet, as no rule would reach them"
            )
    if own.get("frozen") is None:
        own.pop("frozen", None)
    else:
        own["frozen"] = _layer_numbers(own["frozen"])
    for sb3s, name, read in (("net_arch", "hidden", _widths), ("activation_fn", "activation", _activation_name)):
        given = [value for value in (own.pop(sb3s, None), own.pop(name, None)) if value is not None]
        if len(given) > 1:
            raise ValueError(f"{sb3s} is SB3's name for {name}: give one of them")
        if given:
            own[name] = read(given[0])
    return own


def is_sb3s(state_dict: Mapping[str, Any]) -> bool:
    """Whether these are the tensors of SB3's own policy, whose output layers stand apart."""
    return "action_net.weight" in state_dict


class _SeparateNetworks(nn.Module):
    """Actor and critic, in the place of SB3's ``MlpExtractor``."""

    def __init__(self, actor: Network, critic: nn.Module, sde: bool):
        super().__init__()
        self.actor = actor
        self.critic = critic
        self.sde = sde

    def forward(self, features: Tensor) -> tuple[Any, Tensor]:
        return self.forward_actor(features), self.critic(features)

    def forward_actor(self, features: Tensor) -> Any:
        return _with_last_hidden(self.actor, features) if self.sde else self.actor(features)

    def forward_critic(self, features: Tensor) -> Tensor:
        return self.critic(features)


class _SharedNetwork(nn.Module):
    """One network for actor and critic, in the place of SB3's ``MlpExtractor``."""

    def __init__(self, shared: Network, action_outputs: int, sde: bool):
        super().__init__()
        self.shared = shared
        self.sizes = [action_outputs, 1]
        self.sde = sde

    def forward(self, features: Tensor) -> tuple[Any, Tensor]:
        if self.sde:
            output, hidden = _with_last_hidden(self.shared, features)
            action, value = torch.split(output, self.sizes, dim=-1)
            return (action, hidden), value
        action, value = torch.split(self.shared(features), self.sizes, dim=-1)
        return action, value

    def forward_actor(self, features: Tensor) -> Any:
        return self(features)[0]

    def forward_critic(self, features: Tensor) -> Tensor:
        return self(features)[1]


class _NoCritic(nn.Module):
    """The critic of an agent that has none: every value is 0."""

    def forward(self, features: Tensor) -> Tensor:
        return features.new_zeros(len(features), 1)


def _with_last_hidden(network: Network, features: Tensor) -> tuple[Tensor, Tensor]:
    """The output, and the last hidden activity: gSDE's exploration noise is a function of it.

    As in SB3, the noise asks the hidden layers for no gradient (Raffin et al. 2021).
    """
    activities = network.activities(features)
    output = network(features) if torch.is_grad_enabled() else activities[-1]
    return output, activities[-2]


@contextmanager
def _unchecked_distributions() -> Iterator[None]:
    """torch's distributions without the checks of their arguments, a fifth of the time of acting.

    What they would find is a network that is no longer finite; a run looks for that once a rollout.
    """
    checks = torch.distributions.Distribution
    before = checks._validate_args
    checks.set_default_validate_args(False)
    try:
        yield
    finally:
        checks.set_default_validate_args(before)


def _fastest(optimizer_class: type[torch.optim.Optimizer]) -> dict[str, bool]:
    """The setting for the fastest of torch's implementations of an optimizer: one kernel for all parameters.

    On the CPU torch's default is a loop in Python over the parameters, which takes a quarter of the
    time of an update of networks this small.
    """
    known = inspect.signature(optimizer_class).parameters
    return next(({name: True} for name in ("fused", "foreach") if name in known), {})


def _stack(above: nn.Linear, below: nn.Linear) -> nn.Linear:
    """One linear layer with the outputs of two."""
    both = nn.Linear(above.in_features, above.out_features + below.out_features)
    with torch.no_grad():
        both.weight.copy_(torch.cat([above.weight, below.weight]))
        both.bias.copy_(torch.cat([above.bias, below.bias]))
    return both


def _copy(rule: str | Rule) -> Rule:
    return copy.deepcopy(rule) if isinstance(rule, Rule) else make_rule(rule)


def _same(rule: Rule, other: Rule) -> bool:
    """Whether two rules are of one kind with the same settings; one that forgets its settings is like no other."""
    try:
        return type(rule) is type(other) and rule_settings(rule) == rule_settings(other)
    except ValueError:
        return False


def _with_rule(network: Network, rule: Rule) -> Network:
    """The network's layers under another rule, which finds their weights as they are and leaves them so."""
    layers = nn.ModuleList(network.layers)
    weights = copy.deepcopy(layers.state_dict())
    changed = Network(network.layers, rule).to(network.layers[0].weight)
    layers.load_state_dict(weights)
    return changed


def _check_critic(separate: bool, critic_rule: str | Rule | None, critic_lr_ratio: float) -> None:
    if not separate and (critic_rule is not None or critic_lr_ratio != 1):
        raise ValueError("critic_rule and critic_learning_rate are for a critic network, which this agent has not")


def _check_frozen(layers: Layers, shared_trunk: bool, critic: bool) -> None:
    if isinstance(layers, Mapping) and (shared_trunk or (layers["critic"] and not critic)):
        raise ValueError(f"frozen={layers} names the critic's layers, but this agent has no critic network of its own")


def _widths(hidden: Any) -> list[int] | dict[str, list[int]]:
    """One list of neurons for both networks, or a list each for ``actor`` and ``critic``."""
    if isinstance(hidden, Sequence) and len(hidden) == 1 and isinstance(hidden[0], Mapping):
        warnings.warn(
            f"net_arch={hidden} is a form that SB3 has given up; net_arch={hidden[0]} is today's", stacklevel=2
        )
        hidden = hidden[0]
    if not isinstance(hidden, Mapping):
        return _neurons(hidden)
    names = {"pi": "actor", "vf": "critic"}
    given = {names.get(str(name), str(name)): _neurons(widths) for name, widths in hidden.items()}
    # In SB3 a network that net_arch does not name has no hidden layer.
    unnamed: dict[str, list[int]] = {name: [] for name in names.values()} if hidden.keys() <= names.keys() else {}
    widths = unnamed | given
    if widths.keys() != set(names.values()):
        raise ValueError(f"hidden must be a list, or a list each for actor and critic, not for {', '.join(hidden)}")
    return widths["actor"] if widths["actor"] == widths["critic"] else widths


def _neurons(widths: Any) -> list[int]:
    if not isinstance(widths, Sequence) or not all(isinstance(n, int | np.integer) and n >= 1 for n in widths):
        shown = list(widths) if isinstance(widths, tuple) else widths
        raise ValueError(f"hidden must hold the neurons of each layer, such as [64, 64], not {shown!r}")
    return [int(n) for n in widths]


def _layer_numbers(frozen: Any) -> list[int] | dict[str, list[int]]:
    """One list of layers for all networks, or a list each for ``actor`` and ``critic``."""
    if isinstance(frozen, Mapping):
        if unknown := frozen.keys() - {"actor", "critic"}:
            raise ValueError(f"frozen must be a list, or a list each for actor and critic, not for {min(unknown)}")
        return {name: _layer_list(frozen.get(name, [])) for name in ("actor", "critic")}
    return _layer_list(frozen)


def _layer_list(numbers: Any) -> list[int]:
    whole = isinstance(numbers, Sequence) and all(
        isinstance(n, int | np.integer) and not isinstance(n, bool) for n in numbers
    )
    if not whole or isinstance(numbers, str):
        raise ValueError(f"frozen must hold the numbers of layers, such as [1] or [-1], not {numbers!r}")
    return [int(n) for n in numbers]


def _activation_name(activation: str | type[nn.Module]) -> str:
    if isinstance(activation, str):
        return activation
    for name, known in ACTIVATIONS.items():
        if activation is known.module:
            return name
    shown = getattr(activation, "__name__", repr(activation))
    raise ValueError(f"unknown activation {shown}; known: {', '.join(ACTIVATIONS)}")


def _renamed(state_dict: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """SB3's tensors under the names that they have here: the layers of each network, counted from its input.

    Raises:
        ValueError: weights of a learnt feature extractor.
    """
    if learnt := [name for name in state_dict if "features_extractor." in name]:
        raise ValueError(f"{learnt[0]}: weights of a learnt feature extractor, which has no place here")
    renamed = {name: tensor for name, tensor in state_dict.items() if name == "log_std"}
    for network, hidden, output in (("actor", "policy_net", "action_net"), ("critic", "value_net", "value_net")):
        prefix = f"mlp_extractor.{hidden}."
        numbers = sorted({int(name.split(".")[2]) for name in state_dict if name.startswith(prefix)})
        for layer, module in enumerate([*(f"{prefix}{number}" for number in numbers), output]):
            for kind in ("weight", "bias"):
                renamed[f"mlp_extractor.{network}.layers.{layer}.{kind}"] = state_dict[f"{module}.{kind}"]
    return renamed


def _extractor_class(space: spaces.Space) -> type[FlattenExtractor] | type[FlattenDictExtractor]:
    return FlattenDictExtractor if isinstance(space, spaces.Dict) else FlattenExtractor
