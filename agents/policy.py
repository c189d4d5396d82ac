"""The actor-critic policy: Stable-Baselines3's own, around networks that learn by a rule.

SB3 draws its modules and their initial weights as ever; they are then turned into ``Network``s,
so that a seed gives the weights that it gives in SB3. Everything else, from the distribution of
actions to ``predict``, stays SB3's.
"""

import copy
import inspect
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from gymnasium import spaces
from stable_baselines3.common.distributions import Distribution, StateDependentNoiseDistribution
from stable_baselines3.common.policies import ActorCriticPolicy
from stable_baselines3.common.torch_layers import FlattenExtractor
from stable_baselines3.common.type_aliases import Schedule
from torch import Tensor, nn

from agents.spaces import FlattenDictExtractor, check_spaces
from bio_rl import Network, Rule, make_rule
from bio_rl.activations import find_activation


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
        hidden: neurons of each hidden layer, of actor and critic alike.
        activation: the hidden layers', by its name in ``bio_rl.activations``.
        shared_trunk: one network for both, whose output is the actor's and then the value.
        critic: whether there is one; without, every value is 0.
        critic_lr_ratio: the critic's learning rate as a multiple of the actor's.
        **settings: any other of SB3's ``ActorCriticPolicy``.

    Raises:
        ValueError: spaces that cannot be used, an unknown rule or activation, a layer without
            neurons, or settings of a critic where there is none apart from the actor.
    """

    def __init__(
        self,
        observation_space: spaces.Space,
        action_space: spaces.Space,
        lr_schedule: Schedule,
        rule: str | Rule = "backprop",
        critic_rule: str | Rule | None = None,
        hidden: Sequence[int] = (64, 64),
        activation: str = "tanh",
        shared_trunk: bool = False,
        critic: bool = True,
        critic_lr_ratio: float = 1.0,
        **settings: Any,
    ):
        check_spaces(observation_space, action_space)
        if min(hidden, default=1) < 1:
            raise ValueError(f"hidden must hold the neurons of each layer, such as [64, 64], not {list(hidden)}")
        if shared_trunk and not critic:
            raise ValueError("a shared trunk has a value head; shared_trunk=True needs a critic to use it")
        if (shared_trunk or not critic) and (critic_rule is not None or critic_lr_ratio != 1):
            raise ValueError("critic_rule and critic_learning_rate are for a critic network, which this agent has not")
        super().__init__(
            observation_space,
            action_space,
            lr_schedule,
            net_arch=list(hidden),
            activation_fn=find_activation(activation).module,
            features_extractor_class=_extractor_class(observation_space),
            **settings,
        )
        # As a plain dict, so that a rule which only serves as a pattern is not one of our modules.
        self._own_settings: dict[str, Any] = {
            "rule": rule,
            "critic_rule": critic_rule,
            "hidden": list(hidden),
            "activation": activation,
            "shared_trunk": shared_trunk,
            "critic": critic,
            "critic_lr_ratio": critic_lr_ratio,
        }
        # What the conversion draws must not shift the random numbers that follow.
        with torch.random.fork_rng(devices=[]):
            self.mlp_extractor = self._networks()  # type: ignore[assignment]
        self.action_net = self.value_net = nn.Identity()  # type: ignore[assignment]
        self.optimizer = self.optimizer_class(
            self._parameter_groups(lr_schedule(1)),
            lr=lr_schedule(1),
            **{**_fastest(self.optimizer_class), **self.optimizer_kwargs},  # type: ignore[call-arg]
        )

    @property
    def networks(self) -> dict[str, Network]:
        """The networks by what they are: ``actor`` and, if there is one, ``critic``; or ``shared``."""
        return {name: net for name, net in self.mlp_extractor.named_children() if isinstance(net, Network)}

    def _networks(self) -> nn.Module:
        """SB3's modules as networks with the same weights."""
        own, sde = self._own_settings, self.use_sde
        extractor, action_net, value_net = self.mlp_extractor, self.action_net, self.value_net
        assert isinstance(action_net, nn.Linear)
        if own["shared_trunk"]:
            head = _stack(action_net, value_net)
            shared = Network.from_sequential(nn.Sequential(*extractor.policy_net, head), _copy(own["rule"]))
            return _SharedNetwork(shared, action_net.out_features, sde)
        actor = Network.from_sequential(nn.Sequential(*extractor.policy_net, action_net), _copy(own["rule"]))
        if not own["critic"]:
            return _SeparateNetworks(actor, _NoCritic(), sde)
        critic_rule = own["rule"] if own["critic_rule"] is None else own["critic_rule"]
        critic = Network.from_sequential(nn.Sequential(*extractor.value_net, value_net), _copy(critic_rule))
        return _SeparateNetworks(actor, critic, sde)

    def _parameter_groups(self, learning_rate: float) -> list[dict[str, Any]]:
        learning = {name: p for name, p in self.named_parameters() if p.requires_grad}
        ratio = self._own_settings["critic_lr_ratio"]
        if ratio == 1:
            return [{"params": list(learning.values())}]
        critic = [learning.pop(name) for name in list(learning) if name.startswith("mlp_extractor.critic.")]
        return [
            {"params": list(learning.values())},
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
        return {**sb3s, **self._own_settings}


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


def _extractor_class(space: spaces.Space) -> type[FlattenExtractor] | type[FlattenDictExtractor]:
    return FlattenDictExtractor if isinstance(space, spaces.Dict) else FlattenExtractor
