"""The network, and the one boundary that autograd does not cross.

Autograd sees a network as a single function of its parameters. On the way up the network's rule
runs its forward sweep; on the way down autograd brings the output error dL/dy, and the rule
turns it into one update for every parameter. ``loss.backward(); optimizer.step()`` is all that a
training loop needs, and it is what it had before.
"""

import copy
import math
from collections.abc import Sequence
from itertools import pairwise
from typing import Any, Self

import torch
from torch import Tensor, nn
from torch.autograd.function import FunctionCtx

from bio_rl.activations import ACTIVATIONS
from bio_rl.layers import Dense, Updates
from bio_rl.rule import Divergence, Rule, Trace, rule_settings


class Network(nn.Module):
    """Layers, and the rule by which they learn.

    Shapes: input ``(*members, batch, in_features)``, output ``(*members, batch, out_features)``.
    ``loss.backward()`` leaves in each parameter's ``grad`` what the rule assigned to it; a
    parameter that the rule leaves out, as its ``teaches`` must say, keeps ``grad = None``.

    Attributes:
        modulator: a number per sample, ``(batch,)`` or ``(*members, batch)``, that an agent may leave here
            before ``backward`` and a rule may read there: the reward-prediction error.
        divergences: which of several members diverged, by its number, and where; see ``report``.

    Members are numbered from 0; where they have several dimensions, in row-major order.

    Args:
        layers: from input to output.
        rule: a credit-assignment rule of its own for this network.
        seeds: one for each member, from which all springs that the rule draws; by default from
            torch's global generator, which is left where it was.

    Raises:
        ValueError: no layers, layers that do not fit together, a rule that is in use already, or
            seeds that are not one a member.
    """

    layers: tuple[Dense, ...]

    def __init__(self, layers: Sequence[Dense], rule: Rule, seeds: Sequence[int] | None = None):
        super().__init__()
        _check_layers(layers)
        # A tuple, whose look-ups cost nothing beside a small kernel, registered under the same name.
        self.layers = tuple(layers)
        self._modules["layers"] = nn.ModuleList(layers)
        self.modulator: Tensor | None = None
        self.divergences: dict[int, Divergence] = {}
        self._modules["rule"] = rule
        rule.attach(self, seeds)
        # Shared with the modules: what becomes of their parameters is seen here.
        self._parameters_of = [module._parameters for module in (*self.layers, *rule.modules())]

    @classmethod
    def from_sequential(cls, modules: nn.Sequential, rule: Rule, seeds: Sequence[int] | None = None) -> Self:
        """A network with the layers and a copy of the weights of a plain torch MLP.

        Args:
            modules: ``nn.Linear``s, each followed by at most one activation.
            rule, seeds: as for ``Network``.

        Raises:
            ValueError: a module that is neither, or an activation with arguments of its own.
        """
        return cls(_layers_of(modules), rule, seeds)

    @classmethod
    def stack(cls, networks: Sequence["Network"]) -> Self:
        """Networks of one kind as one network, whose members go on exactly as each would have.

        Weights, feedback and other state, and random generators are copied.

        Args:
            networks: of the same layers, and of the same rule and settings. Members of their own come
                behind the new dimension.

        Raises:
            ValueError: no networks, two that differ, or a rule whose state has no dimensions for members.
        """
        if not networks:
            raise ValueError("there must be at least one network to stack")
        first = networks[0]
        for number, other in enumerate(networks[1:], start=1):
            if _kind(other) != _kind(first):
                raise ValueError(f"network {number} cannot be stacked on network 0: {_difference(other, first)}")
        together = cls._of_kind(first, (len(networks), *first.members))
        _load(together, {name: [each.state_dict()[name] for each in networks] for name in first.state_dict()})
        return together

    def member(self, number: int) -> Self:
        """One member as a network by itself, which goes on exactly as the member would have.

        Weights, feedback and other state, and its random generator are copied.

        Raises:
            IndexError: there is no such member.
        """
        count = math.prod(self.members)
        if not 0 <= number < count:
            raise IndexError(f"there is no member {number}: members are numbered from 0 to {count - 1}")
        depth = len(self.members)
        alone = self._of_kind(self, ())
        state = self.state_dict()
        alone.load_state_dict({name: t.reshape(count, *t.shape[depth:])[number] for name, t in state.items()})
        return alone

    @classmethod
    def _of_kind(cls, network: "Network", members: Sequence[int]) -> Self:
        """A fresh network of the same layers, rule and settings for other members."""
        # What is drawn is overwritten by the caller; it must not shift what torch draws next.
        with torch.random.fork_rng(devices=[]):
            layers = [_with_members(layer, members) for layer in network.layers]
            fresh = cls(layers, type(network.rule)(**rule_settings(network.rule)), [0] * math.prod(members))
        for own, like in zip(fresh.parameters(), network.parameters(), strict=True):
            own.requires_grad_(like.requires_grad)
        return fresh

    def freeze(self, numbers: Sequence[int]) -> None:
        """Let the layers of these numbers keep their weights and biases as they are, and all others learn.

        A frozen layer passes signals in both directions as ever. Feedback weights that learn go on learning, but for
        those that only repeat what a frozen layer's synapses do (Kolen & Pollack 1994). An optimizer made
        before keeps its parameters: make it anew.

        Args:
            numbers: counted from 1 at the input, or from -1 at the output.

        Raises:
            ValueError: there is no such layer, or none would learn.
        """
        depth = len(self.layers)
        for number in numbers:
            if isinstance(number, bool) or not isinstance(number, int) or not 1 <= abs(number) <= depth:
                raise ValueError(
                    f"there is no layer {number!r} to freeze: layers are numbered from 1, at the input, to {depth}, "
                    f"or from -1, at the output, to -{depth}"
                )
        frozen = {number if number > 0 else depth + 1 + number for number in numbers}
        if len(frozen) == depth:
            raise ValueError(f"all layers would be frozen, 1 to {depth}: at least one must learn")
        for number, layer in enumerate(self.layers, start=1):
            layer.requires_grad_(number not in frozen)

    @property
    def frozen(self) -> tuple[int, ...]:
        """The numbers of the layers that do not learn, counted from 1 at the input."""
        return tuple(number for number, layer in enumerate(self.layers, start=1) if not layer.learns)

    @property
    def rule(self) -> Rule:
        # As `nn.Module` would find it, without its search.
        return self._modules["rule"]  # type: ignore[return-value]

    @property
    def in_features(self) -> int:
        return self.layers[0].in_features

    @property
    def out_features(self) -> int:
        return self.layers[-1].out_features

    @property
    def members(self) -> tuple[int, ...]:
        return self.layers[0].members

    def forward(self, x: Tensor) -> Tensor:
        """The output, ``(*members, batch, in) -> (*members, batch, out)``.

        Raises:
            ValueError: an input of the wrong shape, or one that asks for a gradient: a rule
                assigns credit to parameters, so the input would silently get none.
        """
        self._check_input(x)
        if not torch.is_grad_enabled():
            return self.rule.forward(self, x).activities[-1]
        return _Boundary.apply(self, x, *self._learnable())  # type: ignore[no-untyped-call]

    @torch.no_grad()
    def activities(self, x: Tensor) -> Sequence[Tensor]:
        """Every layer's activity at the end of the forward sweep, the input first, without gradients."""
        self._check_input(x)
        return self.rule.forward(self, x).activities

    @torch.no_grad()
    def probe(self) -> None:
        """Look at one update of a copy, before anything is learnt: is it there, and finite?

        Nothing is changed, and torch draws what it would have drawn. What a rule raises by itself it will
        raise again.

        Raises:
            ValueError: the first thing that is wrong with what the rule assigns, by the parameter's name.
        """
        twin, noise = copy.deepcopy(self), torch.Generator().manual_seed(0)
        like, shape = self.layers[0].weight, (*self.members, 4)

        def draw(features: int) -> Tensor:
            return torch.randn(*shape, features, generator=noise, dtype=like.dtype).to(like.device)

        twin.modulator = draw(1).squeeze(-1)
        try:
            with torch.random.fork_rng(devices=[like.device] if like.is_cuda else []):  # a rule may draw from torch
                trace = twin.rule.forward(twin, draw(self.in_features))
                updates = twin.rule.assign(twin, trace, draw(self.out_features))
        except Exception:
            return
        _check_updates(twin, updates)
        for name, parameter in twin.named_parameters():
            if parameter in updates and not updates[parameter].isfinite().all():
                raise ValueError(f"{type(self.rule).__name__}: the update of {name} is not finite at the first step")

    def report(self, member: int, divergence: Divergence) -> None:
        """What a rule calls where a member's sweep diverges.

        A single network's run ends here. One of several members is noted in ``divergences``, and
        every update that it gets from now on is NaN; the others do not notice.

        Raises:
            Divergence: the network has no members.
        """
        if not self.members:
            raise divergence
        self.divergences.setdefault(member, divergence)

    def _learnable(self) -> list[nn.Parameter]:
        # As `parameters()`, without its walk through the module tree at every forward sweep.
        return [p for own in self._parameters_of for p in own.values() if p is not None and p.requires_grad]

    def _check_input(self, x: Tensor) -> None:
        first = self.layers[0]
        shape, members, in_features = x.shape, first.members, first.in_features
        if len(shape) != len(members) + 2 or shape[:-2] != members or shape[-1] != in_features:
            expected = ", ".join([*map(str, members), "batch", str(in_features)])
            raise ValueError(f"the network's input must have shape ({expected}), not {tuple(shape)}")
        if x.requires_grad and torch.is_grad_enabled():
            raise ValueError(
                "the network's input asks for a gradient, which a credit-assignment rule does not give; "
                "detach it, or make what precedes it part of the network"
            )


class _Boundary(torch.autograd.Function):
    """Where autograd ends. Parameters are arguments so that their updates arrive as gradients."""

    @staticmethod
    def forward(ctx: FunctionCtx, network: Network, x: Tensor, *parameters: nn.Parameter) -> Tensor:
        trace = network.rule.forward(network, x)
        ctx.network, ctx.parameters = network, parameters  # type: ignore[attr-defined]
        ctx.versions = _versions(parameters)  # type: ignore[attr-defined]
        ctx.activity_count = len(trace.activities)  # type: ignore[attr-defined]
        # Saved, not just kept: torch frees them after backward.
        ctx.save_for_backward(*trace.activities, *trace.extra)
        return trace.activities[-1]

    @staticmethod
    def backward(ctx: Any, output_error: Tensor) -> tuple[Tensor | None, ...]:
        if torch.is_grad_enabled():
            raise RuntimeError("a Network can be differentiated once only: create_graph=True has no meaning here")
        if ctx.versions != _versions(ctx.parameters):
            raise RuntimeError(
                "a parameter of the Network was modified by an inplace operation between forward and backward, "
                "an optimizer's step perhaps"
            )
        (*saved,) = ctx.saved_tensors
        trace = Trace(saved[: ctx.activity_count], saved[ctx.activity_count :], disposable=True)
        # From here on the trace alone holds the activities (unless the graph is retained), so that a
        # rule may free each as soon as it has served, as autograd does.
        del saved
        ctx.maybe_clear_saved_tensors()
        updates = ctx.network.rule.assign(ctx.network, trace, output_error)
        if not _is_plain(updates, ctx.parameters, ctx.network.layers):
            _check_updates(ctx.network, updates)
        if ctx.network.divergences:
            updates = _without_diverged(ctx.network, updates)
        # What a rule assigned to a frozen layer stays here.
        return (None, None, *map(updates.get, ctx.parameters))


def _is_plain(updates: Any, parameters: Sequence[nn.Parameter], layers: Sequence[Dense]) -> bool:
    """Whether every parameter has an update of its own kind and only frozen layers' have one beside: cheap enough
    for each step."""
    if type(updates) is not dict:
        return False
    if len(updates) != len(parameters):
        frozen = {own for layer in layers for own in layer.parameters() if not own.requires_grad}
        if updates.keys() - frozen != set(parameters):
            return False
    found = list(map(updates.get, parameters))
    return all(
        type(update) is Tensor and update.shape == own.shape and update.dtype == own.dtype
        for update, own in zip(found, parameters, strict=True)
    )


def _check_updates(network: Network, updates: Any) -> None:
    """Refuse what a rule assigned if it is not a right update for each parameter that it teaches.

    Raises:
        ValueError: naming the rule and the parameter.
    """
    rule = type(network.rule).__name__
    if not isinstance(updates, dict):
        raise ValueError(f"{rule}: assign must return a dictionary of updates, not {updates!r}")
    names = {parameter: name for name, parameter in network.named_parameters()}
    for key, update in updates.items():
        if key not in names:
            given = f"a tensor of shape {tuple(key.shape)}" if isinstance(key, Tensor) else repr(key)
            raise ValueError(f"{rule}: assign gives an update to {given}, which is no parameter of this network")
        if not isinstance(update, Tensor):
            raise ValueError(f"{rule}: the update of {names[key]} must be a tensor, not {update!r}")
        if update.shape != key.shape or update.dtype != key.dtype:
            raise ValueError(
                f"{rule}: the update of {names[key]} must have its shape {tuple(key.shape)} and {key.dtype}, "
                f"not {tuple(update.shape)} and {update.dtype}"
            )
    left_out = [name for parameter, name in names.items() if parameter.requires_grad and parameter not in updates]
    teaches = network.rule.teaches
    if (teaches == "all" and left_out) or (teaches == "some" and not updates):
        raise ValueError(
            f"{rule}: assign gives no update to {left_out[0]}; a rule that means to leave parameters out says "
            'teaches = "some" in its class, one that teaches nothing teaches = "none"'
        )


def _without_diverged(network: Network, updates: Updates) -> Updates:
    """The updates, those of members that diverged NaN, so that none is learnt from unnoticed."""
    diverged = torch.zeros(math.prod(network.members), dtype=torch.bool)
    diverged[list(network.divergences)] = True
    marked: Updates = {}
    for parameter, update in updates.items():
        mask = diverged.view(*network.members, *[1] * (update.dim() - len(network.members)))
        marked[parameter] = update.masked_fill(mask.to(update.device), torch.nan)
    return marked


def _with_members(layer: Dense, members: Sequence[int]) -> Dense:
    """A fresh layer of the same kind for other members."""
    bias = layer.bias is not None
    return Dense(layer.in_features, layer.out_features, layer.activation_name, bias, members).to(layer.weight)


def _kind(network: Network) -> dict[str, Any]:
    """What networks must have in common to be stacked."""
    return {
        "members": network.members,
        "layers": [layer.extra_repr() for layer in network.layers],
        "frozen layers": network.frozen,
        "rule": type(network.rule).__name__,
        "settings": rule_settings(network.rule),
        "dtype": network.layers[0].weight.dtype,
        "device": network.layers[0].weight.device,
    }


def _difference(one: Network, other: Network) -> str:
    """The first thing in which two networks' kinds differ, in words."""
    ours, theirs = _kind(one), _kind(other)
    name = next(name for name in ours if ours[name] != theirs[name])
    return f"its {name} {'are' if name.endswith('s') else 'is'} {ours[name]}, not {theirs[name]}"


def _load(together: Network, states: dict[str, list[Tensor]]) -> None:
    """Fill a network of several members with what its members have, by each tensor's name."""
    for name, own in together.state_dict().items():
        expected = (len(states[name]), *states[name][0].shape)
        if tuple(own.shape) != expected:
            raise ValueError(
                f"{type(together.rule).__name__} cannot be stacked: {name} has no dimensions for members, its shape is "
                f"{tuple(own.shape)} and not {expected}"
            )
    together.load_state_dict({name: torch.stack(tensors) for name, tensors in states.items()})


def _versions(parameters: Sequence[nn.Parameter]) -> list[int]:
    """How often each was changed in place: torch's own check, at less than saving each would cost."""
    return [parameter._version for parameter in parameters]


def _check_layers(layers: Sequence[Dense]) -> None:
    if not layers:
        raise ValueError("a network needs at least one layer")
    for number, (below, above) in enumerate(pairwise(layers), start=1):
        if below.out_features != above.in_features or below.members != above.members:
            raise ValueError(
                f"layers {number} and {number + 1} do not fit: {below.out_features} outputs and members "
                f"{below.members} below, {above.in_features} inputs and members {above.members} above"
            )


def _layers_of(modules: nn.Sequential) -> list[Dense]:
    layers: list[Dense] = []
    pending: nn.Linear | None = None
    for module in modules:
        if isinstance(module, nn.Linear):
            if pending is not None:
                layers.append(_dense(pending, "identity"))
            pending = module
        elif pending is None:
            raise ValueError(f"{module} does not follow an nn.Linear")
        else:
            layers.append(_dense(pending, _activation_name(module)))
            pending = None
    if pending is not None:
        layers.append(_dense(pending, "identity"))
    return layers


def _activation_name(module: nn.Module) -> str:
    for name, activation in ACTIVATIONS.items():
        # `inplace` changes no value; any other argument away from its default does.
        if type(module) is activation.module and {**vars(module), "inplace": False} == {
            **vars(activation.module()),
            "inplace": False,
        }:
            return name
    raise ValueError(f"{module} is not an activation that a Network has; known: {', '.join(ACTIVATIONS)}")


def _dense(linear: nn.Linear, activation: str) -> Dense:
    layer = Dense(linear.in_features, linear.out_features, activation, bias=linear.bias is not None)
    layer.load_state_dict(linear.state_dict())
    return layer.to(linear.weight)
