"""What a synapse's update depends on, measured by intervention instead of believed.

One thing is changed, everything else is held, the rule computes its updates again with the same random numbers,
and a synapse either moves beyond rounding or does not. To say by which quantities a rule may learn, and to test
it, is the programme of Bredenberg et al. 2023 (Formalizing locality for normative synaptic plasticity models).

Four devices make the interventions clean, for a rule that shows no more than ``forward`` and ``assign``:

**Two halves.** No synapse, forward or feedback, joins the two halves of the network. What the error, the activity
or the weights of one half do to a synapse of the other is known to no neuron there: a global scalar.

**Clamped activity.** A layer gets other weights, and biases such that every drive of the sweep that acts stays as it
was. Updates *below* it then move if feedback reads its weights; updates *above* it, if another sweep passed it.

**Silent noise.** What a rule learns of weights from responses to noise ends with the noise; what it reads does not.

**Bent activations.** Around the state that acted an activation keeps its value and slope, and is another function
elsewhere: updates move if learning visits another state of activity.

What it cannot see: what a rule does from its third update on, or in a batch of three; transport that is less than a
thousandth of the update of a rule that visits other states; a global number that is the same for any two samples.
"""

import copy
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from functools import cached_property
from itertools import chain, pairwise
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor, nn

from bio_rl.activations import Activation
from bio_rl.layers import Dense, Updates
from bio_rl.network import Network
from bio_rl.rule import Rule, Trace

SUBJECTS = (("tanh", (6, 10, 8, 4)), ("softplus", (4, 12, 10, 6)), ("relu", (6, 14, 12, 10, 4)))
"""Activation and sizes of the networks that are experimented on: even, to be halved, and no size twice."""
ROUNDING = 1e-10
"""A smaller change, relative to the update, is rounding: float64's is below 1e-11, a nudge's effect above 1e-9."""

Transport = Literal["none", "signs", "values"]
Change = Literal["signs", "values"]


@dataclass(frozen=True)
class Findings:
    """What the updates of a rule's synapses depend on.

    Attributes:
        presynaptic: the activity of the synapse's own presynaptic neuron.
        postsynaptic: that of its own postsynaptic neuron.
        feedback: a signal about the error that reaches a hidden neuron by synapses, apical or other.
        weight_transport: forward weights of other layers, or their signs only; also by feedback weights
            that learn them in another way than from activity.
        other_samples: what happens in other samples of the batch.
        global_scalar: a number that no synapse brings to the neuron.
        separate_phases: activity in another state than the one that acted, such as a nudged one, or a phase of noise.
        second_sweep: another sweep through the network for the same sample.
    """

    presynaptic: bool
    postsynaptic: bool
    feedback: bool
    weight_transport: Transport
    other_samples: bool
    global_scalar: bool
    separate_phases: bool
    second_sweep: bool


DECLARED: dict[str, tuple[str, Callable[[Rule], Any]]] = {
    "weight_transport": (
        "weight_transport",
        lambda rule: "signs" if rule.weight_transport == "signs" else "values" if rule.weight_transport else "none",
    ),
    "other_samples": ("nonlocal_scalars", lambda rule: "batch" in rule.nonlocal_scalars),
    # What a perturbation did to the loss is told to every synapse alike.
    "global_scalar": (
        "nonlocal_scalars",
        lambda rule: bool(rule.nonlocal_scalars) or getattr(rule, "ngrad", "") == "perturbation",
    ),
    "separate_phases": ("separate_phases", lambda rule: rule.separate_phases),
    "second_sweep": ("extra_sweeps", lambda rule: rule.extra_sweeps),
}
"""The class attribute by which a rule says something of itself about a finding, and what it says."""


class Contradiction(NamedTuple):
    """A finding that is not what the rule declares.

    Attributes:
        finding: its name in ``Findings``.
        attribute: the class attribute by which the rule declares it.
        declared, measured: what the rule says, and what was found.
    """

    finding: str
    attribute: str
    declared: bool | Transport
    measured: bool | Transport


def contradictions(rule: Rule, findings: Findings) -> list[Contradiction]:
    """Where a rule's findings are not what it declares, in either direction; of what it leaves out it says nothing."""
    said = {name: (attribute, tell(rule)) for name, (attribute, tell) in DECLARED.items() if hasattr(rule, attribute)}
    found = [Contradiction(name, *each, getattr(findings, name)) for name, each in said.items()]
    return [each for each in found if each.declared != each.measured]


def audit(make: Callable[[], Rule]) -> Findings:
    """What the updates of a rule depend on, in any of several small float64 networks.

    A rule that relaxes until its ``tolerance`` is met goes on to its last step instead: what a solver leaves over
    is no signal.

    Args:
        make: gives a fresh rule, of the same settings each time.

    Raises:
        Exception: whatever the rule raises.
    """
    found = [_findings(_subject(make(), *subject, seed)) for seed, subject in enumerate(SUBJECTS)]
    order = ("none", "signs", "values")
    strongest = max((each.weight_transport for each in found), key=order.index)
    anywhere: dict[str, Any] = {name: any(getattr(each, name) for each in found) for name in asdict(found[0])}
    return Findings(**anywhere | {"weight_transport": strongest})


def _findings(one: "_Experiment") -> Findings:
    return Findings(
        presynaptic=_presynaptic(one.alone),
        postsynaptic=_postsynaptic(one.alone),
        feedback=_feedback(one),
        weight_transport=_weight_transport(one),
        other_samples=_other_samples(one),
        global_scalar=_global_scalar(one),
        separate_phases=_another_state(one) or _learns_in(one, "noise alone"),
        second_sweep=_second_sweep(one) or _learns_in(one, "the sample"),
    )


@dataclass(frozen=True)
class _Experiment:
    """A network, and the samples that it learns from; whatever changes one gives another experiment.

    Attributes:
        network: of two halves, see ``_subject``.
        x: input, ``(batch, in)``.
        error: dL/dy, ``(batch, out)``.
        modulator: ``(batch,)``, for rules that read one.
        noise: whether the rule gets the random numbers that it asks for, or zeros.
    """

    network: Network
    x: Tensor
    error: Tensor
    modulator: Tensor
    noise: bool = True

    @cached_property
    def activities(self) -> list[Tensor]:
        """Those of the sweep that acts, the input first."""
        return self._run(learn=False)[0]

    @cached_property
    def updates(self) -> dict[str, Tensor]:
        """Each learning parameter's update, by its name in the network; zeros where there is none."""
        return self._run(learn=True)[1]

    @property
    def alone(self) -> "_Experiment":
        """The first sample by itself."""
        return replace(self, x=self.x[:1], error=self.error[:1], modulator=self.modulator[:1])

    @cached_property
    def lessons(self) -> list[dict[str, Tensor]]:
        """The updates for an error at each of the outputs alone, in the first sample."""
        samples, outputs = self.error.shape
        errors = torch.eye(outputs).to(self.error).unsqueeze(1)
        return [replace(self, error=nn.functional.pad(each, (0, 0, 0, samples - 1))).updates for each in errors]

    @torch.no_grad()
    def _run(self, learn: bool) -> tuple[list[Tensor], dict[str, Tensor]]:
        network = copy.deepcopy(self.network)
        network.modulator = torch.ones_like(self.modulator)
        if not self.noise:
            for rule in (module for module in network.rule.modules() if isinstance(module, Rule)):
                rule.randn = rule.rand = _zeros  # type: ignore[method-assign]
        with torch.random.fork_rng(devices=[]):
            torch.default_generator.manual_seed(0)
            if not learn:
                return network.rule.forward(network, self.x).activities, {}
            # What a rule keeps of one update for the next shows in the second, which the first sample is no news to.
            _update(network, self.x[:1].expand_as(self.x), self.error)
            network.modulator = self.modulator
            updates = _update(network, self.x, self.error)
        learning = {name: each for name, each in network.named_parameters() if each.requires_grad}
        if not all(updates[each].isfinite().all() for each in learning.values() if each in updates):
            raise ArithmeticError("an update is not finite")
        return [], {name: updates.get(each, torch.zeros_like(each)).clone() for name, each in learning.items()}

    def with_network(self, change: Callable[[Network], object]) -> "_Experiment":
        """The same with a changed copy of the network."""
        network = copy.deepcopy(self.network)
        with torch.no_grad():
            change(network)
        return replace(self, network=network)

    def reweighed(self, index: int, kind: Change, seed: int = 0) -> "_Experiment":
        """The same with other weights in layer ``index``, and no drive of the acting sweep changed.

        Args:
            index: from 0.
            kind: ``values`` keeps the signs; ``signs`` does not, nor the sizes.
            seed: of how the weights change.
        """

        def reweigh(network: Network) -> None:
            weight, pre = network.layers[index].weight, self.activities[index]
            random = torch.rand(weight.shape, generator=torch.Generator().manual_seed(seed), dtype=weight.dtype)
            change = (random - 0.5) * weight if kind == "values" else torch.where(random < 0.5, -2.0, 0.0) * weight
            # What differs between samples must not meet the change; what they share, biases make up for.
            for other in pre[1:]:
                differing = (other - pre[0]) * (weight != 0)
                change -= differing * _ratio((change * differing).sum(-1, True), differing.square().sum(-1, True))
            if kind == "values":  # no step of a neuron's weights takes one of them half-way to 0
                change /= _ratio(change, weight).abs().amax(-1, keepdim=True).mul(2).clamp_min(1)
            weight.add_(change)
            _bias(network, index).sub_(pre[0] @ change.mT)

        return self.with_network(reweigh)

    def excited(self, index: int, neuron: int) -> "_Experiment":
        """The same with more activity in one neuron, and no drive above it changed.

        Args:
            index: the neuron's place among ``activities``; 0 for an input.
            neuron: its number there.
        """

        def excite(network: Network) -> None:
            if index:
                _bias(network, index - 1)[neuron] += 0.1

        changed = self.with_network(excite)
        if index == 0:
            changed = replace(changed, x=self.x + 0.1 * nn.functional.one_hot(torch.tensor(neuron), self.x.shape[-1]))
        gain = (changed.activities[index] - self.activities[index])[0, neuron]

        def compensate(network: Network) -> None:
            if index < len(network.layers):
                _bias(network, index).sub_(network.layers[index].weight[:, neuron] * gain)

        return changed.with_network(compensate)

    def half(self, name: str) -> Tensor:
        """The part of a parameter's update that belongs to the first half of the network."""
        return _first_half(self.updates[name], _sizes(self.network))

    def weights(self) -> list[str]:
        """The names of the layers' weights, from input to output."""
        return [f"layers.{index}.weight" for index in range(len(self.network.layers))]

    def feedback_names(self) -> list[str]:
        """The names of the rule's own learning parameters."""
        return [name for name in self.updates if name.startswith("rule.")]


def _subject(rule: Rule, activation: str, sizes: Sequence[int], seed: int) -> _Experiment:
    """A network whose two halves no synapse joins, and two samples, so that what is compared between them is seen."""
    with torch.random.fork_rng(devices=[]), torch.no_grad():
        torch.manual_seed(seed)
        names = [activation] * (len(sizes) - 2) + ["identity"]
        layers = [_Halved(i, o, name, sizes) for (i, o), name in zip(pairwise(sizes), names, strict=True)]
        for each in rule.modules():
            if hasattr(each, "tolerance"):
                setattr(each, "tolerance", torch.finfo(torch.float64).tiny)  # noqa: B010 -- modules type it otherwise
        network = Network(layers, rule, [seed])
        for own in rule.state_dict().values():
            if isinstance(own, Tensor) and _joins(own, sizes):
                own *= _same_half(own, sizes)
        x, error = torch.randn(2, sizes[0]).double(), torch.randn(2, sizes[-1]).double()
        return _Experiment(network, x, error, torch.rand(2).double() + 0.5)


class _Halved(Dense):
    """A layer whose neurons see and feed back to their own half of the layer below."""

    def __init__(self, in_features: int, out_features: int, activation: str, sizes: Sequence[int]):
        super().__init__(in_features, out_features, activation)
        self.double()
        self.sizes = sizes
        # Larger than fresh ones, so that slopes differ from neuron to neuron.
        self.weight.mul_(2 * _same_half(self.weight, sizes))

    def feedback(self, delta: Tensor, weight: Tensor | None = None) -> Tensor:
        weight = self.weight if weight is None else weight
        return super().feedback(
            delta, weight * _same_half(weight, self.sizes) if _joins(weight, self.sizes) else weight
        )


def _joins(weight: Tensor, sizes: Sequence[int]) -> bool:
    """Whether a tensor is a matrix of synapses between two layers, to be told by its shape."""
    return weight.dim() == 2 and all(size in sizes for size in weight.shape)


def _same_half(weight: Tensor, sizes: Sequence[int]) -> Tensor:
    """1 for a synapse inside a half, 0 for one between them."""
    rows, columns = (torch.arange(size) < size // 2 for size in weight.shape)
    return (rows.unsqueeze(-1) == columns).to(weight)


def _first_half(update: Tensor, sizes: Sequence[int]) -> Tensor:
    """The part of a parameter's update that is the first half's; nothing where no dimension counts neurons."""
    if not any(size in sizes for size in update.shape):
        return update.flatten()[:0]
    return update[tuple(slice(size // 2 if size in sizes else size) for size in update.shape)]


def _sizes(network: Network) -> list[int]:
    return [network.in_features, *(layer.out_features for layer in network.layers)]


def _bias(network: Network, index: int) -> Tensor:
    bias = network.layers[index].bias
    assert bias is not None
    return bias


def _ratio(of: Tensor, to: Tensor) -> Tensor:
    """0 where both are."""
    return of / to.masked_fill(to == 0, 1)


def _update(network: Network, x: Tensor, error: Tensor) -> Updates:
    """A sweep and what the rule makes of it, which may do with its arguments as it likes."""
    trace = network.rule.forward(network, x.clone())
    trace = Trace([each.clone() for each in trace.activities], [each.clone() for each in trace.extra])
    return network.rule.assign(network, trace, error.clone())


def _zeros(shape: Sequence[int], like: Tensor) -> Tensor:
    return like.new_zeros(tuple(shape))


def _moved(before: Tensor, after: Tensor) -> bool:
    """Whether anything changed beyond rounding; updates here are of size 1."""
    if before.numel() == 0:
        return False
    size = max(before.abs().max().item(), after.abs().max().item())
    return (after - before).abs().max().item() > max(ROUNDING * size, 1e-12)


def _turned(before: Tensor, after: Tensor) -> bool:
    """Whether an update points elsewhere; its size alone may be a global scalar's doing."""
    return _moved(_direction(before), _direction(after))


def _direction(update: Tensor) -> Tensor:
    return update / max(update.norm().item(), 1e-12)


def _presynaptic(one: _Experiment) -> bool:
    """Own presynaptic activity: an input neuron's changes, with all drives as they were."""
    for index, name in enumerate(one.weights()):
        neuron = int(one.half(name).norm(dim=0).argmax())
        if _moved(one.updates[name][:, neuron], one.excited(index, neuron).updates[name][:, neuron]):
            return True
    return False


def _postsynaptic(one: _Experiment) -> bool:
    """Own postsynaptic activity: a neuron's changes, with its inputs and all drives above as they were."""
    for index, name in enumerate(one.weights(), start=1):
        neuron = int(one.half(name).norm(dim=1).argmax())
        if _moved(one.updates[name][neuron], one.excited(index, neuron).updates[name][neuron]):
            return True
    return False


def _feedback(one: _Experiment) -> bool:
    """Hidden synapses of a half that learn from its own error, and are silent where only the other half has one."""
    second = torch.arange(one.error.shape[-1]) >= one.error.shape[-1] // 2
    for noise in (True, False):
        alone = replace(one, error=one.error * ~second, noise=noise)
        elsewhere = replace(one, error=one.error * second, noise=noise)
        hidden = one.weights()[:-1]
        learn = any(_moved(torch.zeros_like(alone.half(name)), alone.half(name)) for name in hidden)
        silent = not any(_moved(torch.zeros_like(alone.half(name)), elsewhere.half(name)) for name in hidden)
        if learn and silent:
            return True
    return False


def _weight_transport(one: _Experiment) -> Transport:
    """Whether what a layer is taught, or what feedback learns, follows other layers' weights with all activity held."""
    quiet, elsewhere = replace(one, noise=False), _another_state(one)
    # Without a signal of their own, neurons are taught by what noise did, which passes the weights above.
    bases = [quiet, one] if _feedback(one) else [quiet]
    alone = quiet.alone
    kinds: tuple[Change, Change] = ("values", "signs")
    for kind in kinds:
        for index in range(1, len(one.network.layers)):
            for base in bases:
                others = [base.reweighed(index, kind, seed) for seed in range(3 if elsewhere else 1)]
                if any(_taught_otherwise(base, others, below, elsewhere) for below in range(index)):
                    return kind
            if not elsewhere and _turned_by_below(quiet, index - 1, kind):
                return kind
            if any(_copies(alone, alone.reweighed(index, kind), name) for name in one.feedback_names()):
                return kind
    return "none"


def _taught_otherwise(before: _Experiment, others: list[_Experiment], index: int, elsewhere: bool) -> bool:
    """Whether the updates of layer ``index``, over all output errors, span more directions where weights differ.

    Signals that reach a layer by weights that read none of these stay in their space, whatever becomes of the output.
    It has no more dimensions than the output; where learning visits other states, which are not held, the layer
    above may send any signal.
    """
    lessons = [[each[one.weights()[index]].flatten() for each in one.lessons] for one in (before, *others)]
    known = torch.linalg.svdvals(torch.stack(lessons[0]))
    sizes = torch.linalg.svdvals(torch.stack([*chain(*lessons)]))
    if elsewhere:
        # Of such a signal's effect a ten-thousandth may be of second order, and lie outside.
        dimensions, outside = before.network.layers[index + 1].out_features, 1e-3
    else:
        dimensions, outside = int((known > ROUNDING * known[0]).sum()), 1e-6
    return bool((sizes[dimensions:] > max(outside * sizes[0].item(), 1e-12)).any())


def _turned_by_below(one: _Experiment, index: int, kind: Change) -> bool:
    """Whether updates above layer ``index`` turn with its weights, which the sweep that acted passed unchanged."""
    changed = one.reweighed(index, kind)
    return any(_turned(one.updates[name], changed.updates[name]) for name in one.weights()[index + 1 :])


def _copies(before: _Experiment, after: _Experiment, name: str) -> bool:
    """Whether feedback's update follows many weights one by one.

    From one sample's activity, without noise, no more can come than a product of two vectors; of its change, two.
    """
    change = _direction(after.updates[name]) - _direction(before.updates[name])
    if change.dim() != 2 or min(change.shape) < 3:
        return False
    return bool(torch.linalg.svdvals(change)[2] > 1e-6)


def _other_samples(one: _Experiment) -> bool:
    """Whether samples interact, and one is felt where it teaches nothing itself."""
    draw = torch.Generator().manual_seed(0)

    def both(first: int, second: int, silent: str = "") -> _Experiment:
        samples = [_sample(one, draw.manual_seed(number)) for number in (first, second)]
        x, error, modulator = (torch.cat(each) for each in zip(*samples, strict=True))
        if silent == "error":
            error[1] = 0
        if silent == "input":
            x[1] = 0
        return replace(one, x=x, error=error, modulator=modulator)

    own = [name for name in one.updates if name.startswith("layers.")]
    sums = [[both(first, second).updates for second in (2, 3)] for first in (0, 1)]
    interact = any(_moved(sums[0][0][name] - sums[1][0][name], sums[0][1][name] - sums[1][1][name]) for name in own)
    if not interact:
        return False
    by_activity = any(_moved(*(both(0, second, "error").updates[name] for second in (2, 3))) for name in own)
    # Without presynaptic activity the second sample changes no weight of the first layer by its own error.
    return by_activity or _moved(*(both(0, second, "input").updates["layers.0.weight"] for second in (2, 3)))


def _sample(one: _Experiment, generator: torch.Generator) -> tuple[Tensor, Tensor, Tensor]:
    x, error = (torch.randn(1, like.shape[-1], generator=generator, dtype=like.dtype) for like in (one.x, one.error))
    return x, error, torch.rand(1, generator=generator, dtype=x.dtype) + 0.5


def _global_scalar(one: _Experiment) -> bool:
    """Whether the first half's synapses move with the second's error, activity or weights, or with the modulator."""

    def second_half(tensor: Tensor) -> Tensor:
        return 1 + 0.5 * (torch.arange(tensor.shape[-1]) >= tensor.shape[-1] // 2)

    def grow(network: Network) -> None:
        for layer in network.layers:
            layer.weight.mul_(second_half(layer.weight))

    interventions = [
        replace(one, error=one.error * second_half(one.error)),
        replace(one, x=one.x * second_half(one.x)),
        replace(one, modulator=1.5 * one.modulator),
        one.with_network(grow),
    ]
    return any(_moved(one.half(name), other.half(name)) for other in interventions for name in one.updates)


def _second_sweep(one: _Experiment) -> bool:
    """Whether updates turn with weights below, which another sweep passed."""
    return any(_turned_by_below(one, index, "values") for index in range(len(one.network.layers) - 1))


def _learns_in(one: _Experiment, place: Literal["noise alone", "the sample"]) -> bool:
    """Whether feedback learns from a layer's responses to noise: where there is nothing else, or on top of a sample."""
    x, error, _ = _sample(one, torch.Generator().manual_seed(0))
    another = replace(one, x=x.expand_as(one.x), error=error.expand_as(one.error))
    quiet = replace(one, noise=False)
    for index in range(len(one.network.layers)):
        changed, unheard = one.reweighed(index, "values"), quiet.reweighed(index, "values")
        for name in one.feedback_names():
            responds = _turned(one.updates[name], changed.updates[name])
            if responds and not _turned(quiet.updates[name], unheard.updates[name]):
                in_sample = _turned(one.updates[name], another.updates[name])
                if in_sample == (place == "the sample"):
                    return True
    return False


def _another_state(one: _Experiment) -> bool:
    """Whether learning visits another state of activity than the one that acted."""
    network = copy.deepcopy(one.network)
    for layer in network.layers:
        layer.activation = _Bent(layer.activation)
    straight = replace(one, network=network)
    with torch.no_grad():
        network.modulator = one.modulator
        network.rule.forward(network, one.x.clone())

    def bend(changed: Network) -> None:
        for layer in changed.layers:
            assert isinstance(layer.activation, _Bent)
            layer.activation.bend = 0.3

    for layer in network.layers:
        layer.activation.recording = False  # type: ignore[attr-defined]
    bent = straight.with_network(bend)
    return any(_moved(straight.updates[name], bent.updates[name]) for name in straight.updates)


class _Bent(Activation):
    """An activation that keeps its value and slope at the drives of some samples, and is another function elsewhere.

    Attributes:
        bend: how much another; 0 for the activation as it is.
        recording: whether the drives that pass become those where nothing changes.
    """

    module = nn.Identity

    def __init__(self, straight: Activation):
        self.straight = straight
        self.bend = 0.0
        self.recording = True

    def forward(self, drive: Tensor, out: Tensor | None = None) -> Tensor:
        if self.recording:
            self.drives = drive.clone()
            self.activities = self.straight.forward(drive.clone())
        activity = self.straight.forward(drive.clone()) + self.bend * self._distance(drive, self.drives).square()
        return activity if out is None else out.copy_(activity)

    def slope(self, activity: Tensor) -> Tensor:
        return self.straight.slope(activity) + self.bend * self._distance(activity, self.activities)

    def _distance(self, state: Tensor, acted: Tensor) -> Tensor:
        """0 where a state is the one that acted in any of the samples, and at most 1."""
        distance = torch.ones_like(state)
        for each in acted:
            gap = state - each
            distance = distance * gap / (1 + gap.abs())
        return distance

    def gate(self, signal: Tensor, activity: Tensor, out: Tensor | None = None) -> Tensor:
        return torch.mul(signal, self.slope(activity), out=out)
