"""Gated plasticity: a neuromodulator scales how much each sample is learnt from, under any rule."""

from collections.abc import Mapping, Sequence
from typing import Annotated, Any, Literal

import torch
from torch import Tensor, nn

from bio_rl.layers import Updates
from bio_rl.mechanisms.arithmetic import nonzero
from bio_rl.network import Network
from bio_rl.rule import Rule, Trace
from bio_rl.rules import make_rule, rule_class
from bio_rl.settings import Between, Share


class RunningMean(nn.Module):
    """An exponential running mean, unbiased from the first value on; saved with the network.

    Args:
        members: as the network's.
        features: the rest of the values' shape.
        rate: the weight of a new value.
        like: gives dtype and device.
    """

    total: Tensor
    weight: Tensor

    def __init__(self, members: Sequence[int], features: Sequence[int], rate: float, like: Tensor):
        super().__init__()
        self.rate = rate
        self.register_buffer("total", like.new_zeros((*members, *features)))
        self.register_buffer("weight", like.new_zeros((*members, *[1] * len(features))))

    def forward(self, value: Tensor) -> Tensor:
        """The mean, this value included."""
        self.total.lerp_(value, self.rate)
        self.weight.lerp_(torch.ones_like(self.weight), self.rate)
        return self.total / self.weight


class Gate(nn.Module):
    """How open plasticity is for each sample.

    Args:
        network: the network that it gates.
        rate, window, period: as for ``Gated``.
    """

    def __init__(self, network: Network, rate: float, window: int, period: int):
        super().__init__()

    def forward(self, network: Network, trace: Trace) -> Tensor:
        """One factor per sample, ``(*members, batch)``."""
        return torch.ones_like(trace.activities[0][..., 0])


class Surprise(Gate):
    def __init__(self, network: Network, rate: float, window: int, period: int):
        super().__init__(network, rate, window, period)
        self.usual = RunningMean(network.members, (), rate, network.layers[0].weight)

    def forward(self, network: Network, trace: Trace) -> Tensor:
        batch = trace.activities[0].shape[:-1]
        modulator = network.modulator
        if modulator is None or modulator.shape not in (batch, batch[-1:]):
            got = "none" if modulator is None else f"one of shape {tuple(modulator.shape)}"
            raise ValueError(
                "gate=surprise needs each sample's reward-prediction error in network.modulator before backward: "
                f"one of shape {tuple(batch)}; there is {got}"
            )
        return relative(modulator.abs().to(trace.activities[0]).expand(batch), self.usual)


class Novelty(Gate):
    def __init__(self, network: Network, rate: float, window: int, period: int):
        super().__init__(network, rate, window, period)
        like, members = network.layers[0].weight, network.members
        self.familiar = nn.ModuleList(
            RunningMean(members, (layer.in_features,), rate, like) for layer in network.layers
        )
        self.usual = nn.ModuleList(RunningMean(members, (), rate, like) for _ in network.layers)

    def forward(self, network: Network, trace: Trace) -> Tensor:
        novelties = []
        for pre, familiar, usual in zip(trace.activities[:-1], self.familiar, self.usual, strict=True):
            distance = (pre - familiar(pre.mean(-2)).unsqueeze(-2)).square().sum(-1)
            novelties.append(relative(distance, usual))
        return torch.stack(novelties).mean(0)


class Window(Gate):
    update: Tensor

    def __init__(self, network: Network, rate: float, window: int, period: int):
        super().__init__(network, rate, window, period)
        self.window, self.period = window, period
        self.register_buffer("update", torch.zeros(network.members, dtype=torch.long))

    def forward(self, network: Network, trace: Trace) -> Tensor:
        is_open = self.update % self.period < self.window
        self.update += 1
        return super().forward(network, trace) * is_open.unsqueeze(-1)


def relative(signal: Tensor, usual: nn.Module) -> Tensor:
    """A signal ``(*members, batch)`` over its running mean; 0 where there has never been any."""
    mean = usual(signal.mean(-1)).unsqueeze(-1)
    return signal / nonzero(mean)


Kind = Literal["surprise", "novelty", "window", "one"]
GATES: dict[Kind, type[Gate]] = {"surprise": Surprise, "novelty": Novelty, "window": Window, "one": Gate}


class Gated(Rule):
    """A rule inside a gate: three-factor plasticity (Frémaux & Gerstner 2016).

    The gate is one number per sample, by which the sample's output error is multiplied before the
    inner rule sees it. A rule's update is a sum over samples, each homogeneous in its own error, so
    this is the same as gating every synapse's change by the sample (all but exactly where a rule
    compares samples, as by a batch's mean). Feedback that learns from the error is gated with the
    rest; what a rule learns from noise of its own is not. The properties that this class states are
    the gate's; a gated rule has its inner rule's as well.

    ``surprise``
        ``|m|`` over its running mean, with m the reward-prediction error that the agent leaves in
        ``network.modulator``.
    ``novelty``
        the squared distance of a layer's presynaptic activities from their running mean, over the
        running mean of that distance; averaged over layers, because a neuromodulator reaches the
        whole network.
    ``window``
        1 in the first ``window`` of every ``period`` updates, else 0. An optimizer's momentum goes
        on while the gate is closed.
    ``one``
        always 1: the bare rule, bit by bit.

    The first two average to about 1, so that a gate chooses what is learnt from, not how fast.

    Args:
        rule: the inner rule's name, or ``module:Class``.
        gate: ``surprise``, ``novelty``, ``window`` or ``one``.
        rate: how fast the running means follow, per update.
        window: updates of a period in which plasticity is on.
        period: updates from the start of one window to that of the next.
        settings: the inner rule's own.

    Raises:
        ValueError: an unknown ``rule`` or ``gate``, a gate around a gate, settings that are no
            mapping or that the inner rule does not take, a ``rate`` outside (0, 1], or a window
            that is empty or longer than its period.
    """

    paper = "Frémaux & Gerstner 2016, Neuromodulated STDP, and theory of three-factor learning rules"
    ngrad = "none"
    weight_transport = False
    separate_phases = False
    error_neurons = False
    extra_sweeps = False
    nonlocal_scalars = "the gate, which follows a mean over the batch (surprise, novelty)"

    def __init__(
        self,
        rule: str = "feedback_alignment",
        gate: Kind = "surprise",
        rate: Share = 0.01,
        window: Annotated[int, Between(1, 10**9)] = 1,
        period: Annotated[int, Between(1, 10**9)] = 2,
        settings: Mapping[str, Any] | None = None,
    ):
        super().__init__()
        if window > period:
            raise ValueError(f"window must be at most the period, {period}, not {window}")
        if not isinstance(settings, Mapping | None):
            raise ValueError(f"settings must be a mapping, such as {{decay: 0.1}}, not {settings!r}")
        self.rule = rule
        self.gate = gate
        self.rate = rate
        self.window = window
        self.period = period
        self.settings = dict(settings or {})
        self.inner = _inner_rule(rule, self.settings)
        self.teaches = self.inner.teaches  # type: ignore[misc]  # a gate teaches what its rule does
        # And it is what that is, beside what is its own.
        for name in ("ngrad", "weight_transport", "separate_phases", "error_neurons", "extra_sweeps"):
            if hasattr(self.inner, name):
                setattr(self, name, getattr(self.inner, name))
        own = type(self).nonlocal_scalars if gate in ("surprise", "novelty") else ""
        inner = getattr(self.inner, "nonlocal_scalars", "")
        self.nonlocal_scalars = "; ".join(filter(None, [own, inner]))  # type: ignore[misc]

    def connect(self, network: Network) -> None:
        self.inner.attach(network, [generator.initial_seed() for generator in self.generators])
        self.openness = GATES[self.gate](network, self.rate, self.window, self.period)

    def forward(self, network: Network, x: Tensor) -> Trace:
        return self.inner.forward(network, x)

    def assign(self, network: Network, trace: Trace, output_error: Tensor) -> Updates:
        factor = self.openness(network, trace).unsqueeze(-1)
        return self.inner.assign(network, trace, output_error * factor)

    def feedback_weights(self, network: Network) -> Sequence[Tensor]:
        return self.inner.feedback_weights(network)


def _inner_rule(name: str, settings: Mapping[str, Any]) -> Rule:
    if issubclass(rule_class(name), Gated):
        raise ValueError("a gate around a gate is a gate: name a rule that is not gated")
    try:
        return make_rule(name, **settings)
    except TypeError as error:
        raise ValueError(f"settings that the inner rule {name!r} does not take: {error}") from None
