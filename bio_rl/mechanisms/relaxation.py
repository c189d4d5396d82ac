"""What the rules that relax share: when to stop, and what a sweep and its stability are computed from.

A sweep works in place on buffers that are made once a call, so that memory does not grow with the
number of steps. Convergence and divergence are read off the same few numbers, fetched together, for
each member by itself: a member ends where it would have ended alone.
"""

import math
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import NamedTuple

import torch
from torch import Tensor

from bio_rl.activations import Activation, HardSigmoid, ReLU
from bio_rl.mechanisms.arithmetic import nonzero
from bio_rl.network import Network
from bio_rl.rule import Divergence

CHECK_EVERY = 2
"""Steps from one look at the residuals to the next; on a GPU each look waits for all work queued."""
GROWTH = 1e4
"""How far a residual may grow beyond the first step's largest: more than any stable network amplifies."""

SMALL = 0.003
"""A change of a drive whose third power is lost in float32."""


class Relaxation(NamedTuple):
    """How a relaxation went, by member.

    Attributes:
        steps: the sweeps that it took.
        residuals: the residual that was left, as a fraction of the largest, in the layer where it is largest.
    """

    steps: list[int]
    residuals: list[float]


_watching: list[list[Relaxation]] = []


@contextmanager
def watched() -> Iterator[list[Relaxation]]:
    """A list that every relaxation inside is added to, in their order. They go as they would unwatched."""
    seen: list[Relaxation] = []
    _watching.append(seen)
    try:
        yield seen
    finally:
        _watching.pop()


def relax(
    network: Network,
    rule: str,
    sweep: Callable[[], Sequence[Tensor]],
    state: Callable[[], Iterable[Tensor]],
    steps: int,
    tolerance: float,
    first_layer: int = 1,
) -> list[int]:
    """Repeat ``sweep`` until nothing is left to change, at most ``steps`` times.

    Args:
        network: whose members relax.
        rule: the rule's name, for ``Divergence``.
        sweep: one step of the dynamics, in place. It returns each layer's residual, the first
            layer's first: what would be zero at the fixed point.
        state: all that is read after the relaxation, each tensor ``(*members, ...)``. A member that
            comes to rest before others do finds there what it had left; one that diverges, NaN.
        steps: the most sweeps.
        tolerance: a layer has converged when its largest residual is at most this times the largest
            that it ever showed.
        first_layer: the layer that the first residual belongs to.

    Returns:
        The number of sweeps of each member.

    Raises:
        Divergence: from a single network, a residual that is no longer finite, or that grew ``GROWTH``-fold.
    """
    motions = [_Moving() for _ in range(math.prod(network.members))]
    moving = dict(enumerate(motions))
    taken = [steps] * len(moving)
    left: dict[int, list[Tensor]] = {}
    for step in range(1, steps + 1):
        residuals = sweep()
        if 1 < step < steps and step % CHECK_EVERY:
            continue
        sizes = largest(network, residuals)
        for member, motion in list(moving.items()):
            layer = motion.diverged(sizes[member])
            if layer is not None:
                network.report(member, Divergence(rule, first_layer + layer, step))
            elif not motion.at_rest(sizes[member], tolerance):
                continue
            taken[member] = step
            del moving[member]
            if network.members:
                left[member] = [own[member].clone() for own in by_member(network, state())]
                if layer is not None:
                    for own in left[member]:
                        own.fill_(torch.nan)
        if not moving:
            break
    for member, kept in left.items():
        for own, value in zip(by_member(network, state()), kept, strict=True):
            own[member] = value
    for seen in _watching:
        seen.append(Relaxation(list(taken), [motion.residual() for motion in motions]))
    return taken


class _Moving:
    """What one member's relaxation has shown so far: the largest residual of each layer, and what is too large."""

    def __init__(self) -> None:
        self.sizes: Sequence[float] = ()
        self.peaks: list[float] = []
        self.limit = sys.float_info.max

    def diverged(self, sizes: Sequence[float]) -> int | None:
        """The first layer, from 0, whose residual has grown too large, or is not a number."""
        found = next((layer for layer, size in enumerate(sizes) if not size <= self.limit), None)
        if not self.peaks:
            self.limit = GROWTH * max(sizes)
        self.sizes = sizes if found is None else ()
        return found

    def at_rest(self, sizes: Sequence[float], tolerance: float) -> bool:
        self.peaks = list(map(max, sizes, self.peaks or sizes))
        return all(size <= tolerance * peak for size, peak in zip(sizes, self.peaks, strict=True))

    def residual(self) -> float:
        """The last one, as ``Relaxation`` says; NaN of a member that diverged."""
        return max((size / (peak or 1) for size, peak in zip(self.sizes, self.peaks, strict=False)), default=math.nan)


class Cautious:
    """Each sample's step, which is halved where the sample's imbalance has grown.

    Args:
        step: ``(*members, batch, 1)``, changed in place.
    """

    def __init__(self, step: Tensor):
        self.step = step
        self._distance = torch.full_like(step, torch.inf)

    def heed(self, imbalances: Sequence[Tensor]) -> None:
        """Look at the imbalances, each ``(*members, batch, o)``, before the step is taken."""
        norms = [imbalance.norm(dim=-1, keepdim=True) for imbalance in imbalances]
        previous, self._distance = self._distance, norms[0] if len(norms) == 1 else torch.stack(norms).norm(dim=0)
        self.step.mul_(torch.where(self._distance > previous, 0.5, 1.0))


def largest(network: Network, residuals: Sequence[Tensor]) -> list[list[float]]:
    """Each member's largest absolute entry of each tensor ``(*members, ...)``; NaN where there is one."""
    if network.members:
        sizes = [each.abs().flatten(1).amax(-1) for each in by_member(network, residuals)]
        return torch.stack(sizes, -1).tolist()
    # Both ends of the range, then the larger: a maximum norm takes as long as a tanh.
    ends = torch.stack([end for residual in residuals for end in torch.aminmax(residual)]).tolist()
    return [[max(-low, high) for low, high in zip(ends[::2], ends[1::2], strict=True)]]


def by_member(network: Network, tensors: Iterable[Tensor]) -> list[Tensor]:
    """Views of tensors ``(*members, ...)`` whose first dimension counts the members, whatever the members' shape."""
    count, depth = math.prod(network.members), len(network.members)
    return [tensor.view(count, *tensor.shape[depth:]) for tensor in tensors]


def response(
    activation: Activation, drive: Tensor, activity: Tensor, change: Tensor, *, scratch: Tensor, out: Tensor
) -> Tensor:
    """``f(drive + change) - f(drive)`` for a small change, without the difference of nearly equal numbers.

    Where f is smooth, by its slope half-way, with an error of third order in the change; half-way is
    where the slope at ``activity`` leads, which spares an evaluation of f. Where f has kinks, exactly: a
    slope half-way would jump there, and a relaxation never come to rest.

    Args:
        activation: f.
        drive, activity: where the change starts, and f of it.
        change: of the same shape, as all tensors here.
        scratch: is overwritten.
        out: receives the result.
    """
    if isinstance(activation, ReLU):
        torch.clamp_max(drive, 0, out=out).add_(change)
        return torch.maximum(out, torch.neg(drive, out=scratch).clamp_max_(0), out=out)
    if isinstance(activation, HardSigmoid):  # of slope 1/6 from -3 to 3
        inside = torch.clamp(drive, -3, 3, out=scratch)
        torch.sub(drive, inside, out=out).add_(change)
        torch.maximum(out, inside.neg_().sub_(3), out=out)
        return torch.minimum(out, inside.add_(6), out=out).div_(6)
    middle = torch.add(activity, activation.gate(change, activity, out=scratch), alpha=0.5, out=scratch)
    return activation.gate(change, middle, out=out)


def large_response(
    activation: Activation, drive: Tensor, activity: Tensor, change: Tensor, *, scratch: Tensor, out: Tensor
) -> Tensor:
    """As ``response``, for changes of any size: those that are not small by the difference itself.

    Where they meet, at ``SMALL``, neither is wrong by more than some hundred-thousandths in float32.
    """
    small = response(activation, drive, activity, change, scratch=scratch, out=out)
    moved = activation.forward(torch.add(drive, change, out=scratch), out=scratch).sub_(activity)
    return torch.where(change.abs() < SMALL, small, moved, out=out)


def squared_spectral_norm(weight: Tensor, iterations: int = 5) -> Tensor:
    """The square of each member's largest singular value, ``(*members, o, i) -> (*members, 1, 1)``.

    By power iteration from a fixed vector, so that the same weights give the same number. It comes
    from below: a few per cent for random weights, less once training has made one direction stand out.
    """
    vector = torch.arange(1, weight.shape[-1] + 1, dtype=weight.dtype, device=weight.device).cos().unsqueeze(0)
    for _ in range(iterations):
        vector = torch.matmul(torch.matmul(vector, weight.mT), weight)
    # Squares of its entries would overflow in float32 from a norm of 40 on. By a power of two nothing is rounded.
    vector = torch.ldexp(vector, -torch.frexp(vector.abs().amax(-1, keepdim=True)).exponent)
    length, image = vector.square().sum(-1, keepdim=True), torch.matmul(vector, weight.mT)
    return image.square().sum(-1, keepdim=True) / nonzero(length)
