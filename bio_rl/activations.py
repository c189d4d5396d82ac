"""Activations and their slopes.

Every activation here is monotone, so its derivative at the drive can be read off the activity:
``slope(activity)`` is d activity / d drive. A trace therefore stores activities only, and costs
no more memory than what autograd would have kept.

Monotone with a slope is also all that the rules' theories ask for: an energy may have the
integral of an activation's inverse in it (equilibrium propagation; where the activation is flat,
the energy's wall), and a learnt inverse may miss what it cannot know (target propagation corrects
for it). So every rule takes every activation here, and a layer refuses all others by their name.

Every method takes torch's ``out=``: the tensor that receives the result, so that a sweep may
reuse memory. All tensors of one call share one shape; an activity may also broadcast to a signal's.
"""

import platform
from abc import ABC, abstractmethod
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import ClassVar

import torch
from torch import Tensor, nn

aten = torch.ops.aten
# Overloads looked up once: choosing one at every call costs as much as a small kernel.
threshold_backward, threshold_backward_out = aten.threshold_backward.default, aten.threshold_backward.grad_input
tanh_backward, tanh_backward_out = aten.tanh_backward.default, aten.tanh_backward.grad_input
sigmoid_backward, sigmoid_backward_out = aten.sigmoid_backward.default, aten.sigmoid_backward.grad_input
hardsigmoid, hardsigmoid_out = aten.hardsigmoid.default, aten.hardsigmoid.out
elu, elu_out = aten.elu.default, aten.elu.out
softplus, softplus_out = aten.softplus.default, aten.softplus.out

WORTH_THREE_CALLS = 2048
"""Elements from which three fast kernels take less time than a slow one."""
MINUS_ONE = torch.tensor(-1.0)


def _is_intel() -> bool:
    try:
        return "GenuineIntel" in Path("/proc/cpuinfo").read_text(encoding="utf-8")
    except OSError:
        return "GenuineIntel" in platform.processor()


def _has_fast_tanh() -> bool:
    """On x86 torch's tanh is MKL's, which is fast where it may use AVX-512, and on Intel's processors alone."""
    has_avx512 = "AVX512" in torch.backends.cpu.get_cpu_capability()
    return torch.backends.mkl.is_available() and has_avx512 and _is_intel()


class Activation(ABC):
    """An element-wise, monotone function of a layer's drive."""

    module: ClassVar[type[nn.Module]]
    """The torch module that computes the same function with its default arguments."""

    @abstractmethod
    def forward(self, drive: Tensor, out: Tensor | None = None) -> Tensor:
        """The activity at a drive."""

    @abstractmethod
    def slope(self, activity: Tensor) -> Tensor:
        """The derivative at the drive that gave this activity."""

    def gate(self, signal: Tensor, activity: Tensor, out: Tensor | None = None) -> Tensor:
        """``signal * slope(activity)``: a signal about an activity becomes one about its drive."""
        return torch.mul(signal, self.slope(activity), out=out)


class Identity(Activation):
    module = nn.Identity

    def forward(self, drive: Tensor, out: Tensor | None = None) -> Tensor:
        return drive if out is None or out is drive else out.copy_(drive)

    def slope(self, activity: Tensor) -> Tensor:
        return torch.ones_like(activity)

    def gate(self, signal: Tensor, activity: Tensor, out: Tensor | None = None) -> Tensor:
        return signal if out is None or out is signal else out.copy_(signal)


class ReLU(Activation):
    module = nn.ReLU

    def forward(self, drive: Tensor, out: Tensor | None = None) -> Tensor:
        return torch.clamp_min(drive, 0, out=out)

    def slope(self, activity: Tensor) -> Tensor:
        return (activity > 0).to(activity.dtype)

    def gate(self, signal: Tensor, activity: Tensor, out: Tensor | None = None) -> Tensor:
        if out is None:
            return threshold_backward(signal, activity, 0)
        return threshold_backward_out(signal, activity, 0, grad_input=out)


class Tanh(Activation):
    """Torch's, or ``2 sigmoid(2 drive) - 1`` where that takes less time."""

    module = nn.Tanh
    is_fast: ClassVar[bool] = _has_fast_tanh()

    def forward(self, drive: Tensor, out: Tensor | None = None) -> Tensor:
        if self.is_fast or drive.is_cuda or drive.numel() < WORTH_THREE_CALLS:
            return torch.tanh(drive, out=out)
        if out is None:
            return torch.add(MINUS_ONE, torch.sigmoid(drive * 2), alpha=2)
        return torch.add(MINUS_ONE, torch.mul(drive, 2, out=out).sigmoid_(), alpha=2, out=out)

    def slope(self, activity: Tensor) -> Tensor:
        return 1 - activity.square()

    def gate(self, signal: Tensor, activity: Tensor, out: Tensor | None = None) -> Tensor:
        if out is None:
            return tanh_backward(signal, activity)
        return tanh_backward_out(signal, activity, grad_input=out)


@contextmanager
def tanh_in_one_call() -> Iterator[None]:
    """For what counts operations, which should be the same on every machine."""
    was_fast, Tanh.is_fast = Tanh.is_fast, True
    try:
        yield
    finally:
        Tanh.is_fast = was_fast


class Sigmoid(Activation):
    module = nn.Sigmoid

    def forward(self, drive: Tensor, out: Tensor | None = None) -> Tensor:
        return torch.sigmoid(drive, out=out)

    def slope(self, activity: Tensor) -> Tensor:
        return activity * (1 - activity)

    def gate(self, signal: Tensor, activity: Tensor, out: Tensor | None = None) -> Tensor:
        if out is None:
            return sigmoid_backward(signal, activity)
        return sigmoid_backward_out(signal, activity, grad_input=out)


class HardSigmoid(Activation):
    """``clip(drive / 6 + 1/2, 0, 1)``, as torch's ``nn.Hardsigmoid``."""

    module = nn.Hardsigmoid

    def forward(self, drive: Tensor, out: Tensor | None = None) -> Tensor:
        return hardsigmoid(drive) if out is None else hardsigmoid_out(drive, out=out)

    def slope(self, activity: Tensor) -> Tensor:
        return ((activity > 0) & (activity < 1)).to(activity.dtype) / 6


class ELU(Activation):
    module = nn.ELU

    def forward(self, drive: Tensor, out: Tensor | None = None) -> Tensor:
        return elu(drive) if out is None else elu_out(drive, out=out)

    def slope(self, activity: Tensor) -> Tensor:
        return activity.clamp_max(0) + 1


class Softplus(Activation):
    """``log(1 + exp(drive))``; its slope is ``1 - exp(-activity)``."""

    module = nn.Softplus

    def forward(self, drive: Tensor, out: Tensor | None = None) -> Tensor:
        return softplus(drive) if out is None else softplus_out(drive, out=out)

    def slope(self, activity: Tensor) -> Tensor:
        return torch.expm1(-activity).neg_()


ACTIVATIONS: dict[str, Activation] = {
    "identity": Identity(),
    "relu": ReLU(),
    "tanh": Tanh(),
    "sigmoid": Sigmoid(),
    "hard_sigmoid": HardSigmoid(),
    "elu": ELU(),
    "softplus": Softplus(),
}


def find_activation(name: str) -> Activation:
    """The activation of that name.

    Raises:
        ValueError: no activation has that name.
    """
    if name not in ACTIVATIONS:
        raise ValueError(f"unknown activation {name!r}; known: {', '.join(ACTIVATIONS)}")
    return ACTIVATIONS[name]
