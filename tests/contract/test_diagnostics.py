"""Looking changes nothing: what is measured goes on as if nobody had looked."""

import copy

import pytest
import torch
from variants import EVERY_RULE

from bio_rl import make_rule
from bio_rl.diagnostics.updates import Minibatch, measure_updates


def states(network):
    return {name: tensor.clone() for name, tensor in network.state_dict().items()}


@pytest.mark.parametrize("members", [(), (2,)])
@pytest.mark.parametrize(("name", "settings"), EVERY_RULE)
def test_a_measurement_leaves_no_trace(build, batch, name, settings, members):
    watched = build(make_rule(name, **settings), members=members)
    unwatched = copy.deepcopy(watched)
    optimizers = [torch.optim.Adam(network.parameters(), lr=0.01) for network in (watched, unwatched)]
    for step in range(3):
        x, output_error = batch(watched)
        minibatch = Minibatch(x, output_error, torch.randn(x.shape[:-1], dtype=x.dtype))
        kept, state, drawn = copy.deepcopy(minibatch), states(watched), torch.get_rng_state()
        gradients = [None if p.grad is None else p.grad.clone() for p in watched.parameters()]
        modulator = watched.modulator
        measures = measure_updates(watched, minibatch, gauss_newton=True)
        assert {each.value.shape for each in measures} == {torch.Size(members)}
        assert torch.equal(torch.get_rng_state(), drawn)
        assert watched.modulator is modulator
        torch.testing.assert_close(states(watched), state, rtol=0, atol=0)
        torch.testing.assert_close(tuple(minibatch), tuple(kept), rtol=0, atol=0)
        for parameter, gradient in zip(watched.parameters(), gradients, strict=True):
            assert (parameter.grad is None) if gradient is None else torch.equal(parameter.grad, gradient)
        for network, optimizer in zip((watched, unwatched), optimizers, strict=True):
            network.modulator = minibatch.modulator
            optimizer.zero_grad()
            network(x).backward(output_error)
            optimizer.step()
        torch.testing.assert_close(states(watched), states(unwatched), rtol=0, atol=0, msg=f"step {step}")
