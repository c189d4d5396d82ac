"""`backprop` and `readout` against torch's autograd."""

import pytest
import torch
from torch.nn import functional as F

from bio_rl.activations import ACTIVATIONS
from bio_rl.rules import Backprop, Readout

TORCH = {
    "identity": lambda z: z,
    "relu": F.relu,
    "tanh": torch.tanh,
    "sigmoid": torch.sigmoid,
    "hard_sigmoid": lambda z: torch.clamp(z / 6 + 0.5, 0, 1),  # F.hardsigmoid's gradient is 1/6 in float32 only
    "elu": F.elu,
    "softplus": F.softplus,
}


def autograd_gradients(network, x, output_error):
    """What torch would have computed: every layer's weight and bias gradient, by autograd alone."""
    parameters = [p.detach().clone().requires_grad_() for layer in network.layers for p in layer.parameters()]
    remaining, activity = iter(parameters), x
    for layer in network.layers:
        drive = activity @ next(remaining).mT
        if layer.bias is not None:
            drive = drive + next(remaining).unsqueeze(-2)
        activity = TORCH[layer.activation_name](drive)
    return torch.autograd.grad(activity, parameters, output_error)


@pytest.mark.parametrize("activation", list(ACTIVATIONS))
def test_an_activation_is_torchs_and_its_slope_is_autograds(activation):
    drive = torch.linspace(-6.3, 6.4, 101, dtype=torch.float64, requires_grad=True)
    expected = TORCH[activation](drive)
    (slope,) = torch.autograd.grad(expected.sum(), drive)
    ours, signal, out = ACTIVATIONS[activation], torch.randn(101, dtype=torch.float64), torch.empty(101).double()
    activity = ours.forward(drive.detach())
    torch.testing.assert_close(activity, expected.detach(), rtol=1e-14, atol=1e-14)
    torch.testing.assert_close(activity, ours.module()(drive).detach(), rtol=1e-14, atol=1e-14)
    torch.testing.assert_close(ours.slope(activity), slope, rtol=1e-12, atol=1e-14)
    torch.testing.assert_close(ours.gate(signal, activity), signal * slope, rtol=1e-12, atol=1e-14)
    torch.testing.assert_close(ours.gate(signal, activity, out=out), signal * slope, rtol=1e-12, atol=1e-14)
    assert ours.forward(drive.detach(), out=out) is out
    torch.testing.assert_close(out, activity)


@pytest.mark.parametrize("sizes", [(4, 2), (5, 8, 3), (5, 8, 6, 3), (3, 9, 1, 7, 5, 6, 2)])
@pytest.mark.parametrize("activation", list(ACTIVATIONS))
@pytest.mark.parametrize(
    ("bias", "members", "output"), [(True, (), "identity"), (False, (3,), "tanh"), (True, (2, 3), "softplus")]
)
def test_backprop_equals_autograd(build, batch, sizes, activation, bias, members, output):
    network = build(Backprop(), sizes, activation, output, bias, members)
    x, output_error = batch(network)
    network(x).backward(output_error)
    expected = autograd_gradients(network, x, output_error)
    for parameter, gradient in zip(network.parameters(), expected, strict=True):
        torch.testing.assert_close(parameter.grad, gradient, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("sizes", [(4, 2), (5, 8, 3), (5, 8, 6, 3)])
@pytest.mark.parametrize("members", [(), (3,)])
def test_readout_learns_only_the_output_layer_and_that_exactly(build, batch, sizes, members):
    network = build(Readout(), sizes, members=members)
    x, output_error = batch(network)
    before = [p.clone() for p in network.parameters()]
    network(x).backward(output_error)
    expected = autograd_gradients(network, x, output_error)[-2:]
    for parameter, gradient in zip(network.layers[-1].parameters(), expected, strict=True):
        torch.testing.assert_close(parameter.grad, gradient, rtol=1e-10, atol=1e-10)
    torch.optim.AdamW(network.parameters(), lr=0.1, weight_decay=0.1).step()
    hidden = sum(1 for layer in network.layers[:-1] for _ in layer.parameters())
    for old, parameter in list(zip(before, network.parameters(), strict=True))[:hidden]:
        assert torch.equal(old, parameter)


def test_readouts_hidden_biases_are_spread_as_asked(build):
    spread = build(Readout(hidden_bias=2.0), (5, 500, 500, 3))
    own = build(Readout(hidden_bias=0.0), (5, 500, 500, 3))
    for wide, narrow in zip(spread.layers[:-1], own.layers[:-1], strict=True):
        assert 2 >= wide.bias.abs().max() > 1.9 > narrow.bias.abs().max()
    assert spread.layers[-1].bias.abs().max() <= 500**-0.5, "the output's bias is learnt, and begins as ever"
    with pytest.raises(ValueError, match="hidden_bias must be a number from 0 to"):
        Readout(hidden_bias=-1)
