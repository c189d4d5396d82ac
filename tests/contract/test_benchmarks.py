"""The benchmark programs run, and count what can be counted exactly."""

import csv

import pytest
import torch

from benchmarks import throughput, update_cost
from bio_rl import Network, make_rule


@pytest.fixture(autouse=True)
def _threads_as_before():
    threads = torch.get_num_threads()
    yield
    torch.set_num_threads(threads)


def test_update_cost_writes_a_row_for_each_rule_and_size(tmp_path, capsys):
    path = tmp_path / "cost.csv"
    sizes = ["--widths", "8", "16", "--depths", "2", "--batches", "4", "--seconds", "0"]
    update_cost.main(["--rules", "backprop", "feedback_alignment", *sizes, "--csv", str(path)])
    with path.open() as file:
        rows = list(csv.DictReader(file))
    assert [(row["rule"], row["width"]) for row in rows] == [
        (rule, width) for rule in ("backprop", "feedback_alignment") for width in ("8", "16")
    ]
    for row in rows:
        # Two forward products, one backward, two outer ones; autograd's are the same.
        assert int(row["flops"]) == 5 * 2 * 4 * int(row["width"]) ** 2
        assert float(row["arithmetic_ratio"]) == 1
        assert float(row["time_ratio"]) > 0
    assert "feedback_alignment" in capsys.readouterr().out


@pytest.mark.parametrize("rule", ["backprop", "feedback_alignment", "direct_feedback_alignment"])
@pytest.mark.parametrize(("width", "depth", "batch"), [(64, 8, 64), (64, 2, 512), (256, 4, 16)])
def test_an_update_needs_no_more_memory_than_autograds(rule, width, depth, batch):
    plain = update_cost.plain_network(width, depth)
    network = Network.from_sequential(plain, make_rule(rule))
    x, output_error = torch.randn(batch, width), torch.randn(batch, width)
    ours, autograds = (
        update_cost.peak_bytes(update_cost.one_update(model, x, output_error)) for model in (network, plain)
    )
    assert ours <= autograds


def test_peak_memory_counts_what_is_alive_together():
    x = torch.ones(1000)

    def two_then_one():
        first, second = x + 1, x.view(10, 100) + 1
        del first, second
        x.add(1)

    assert update_cost.peak_bytes(two_then_one) == 2 * x.nbytes


def test_the_growth_of_time_is_recovered():
    rows = [
        {"width": width, "depth": depth, "batch": 64, "seconds": 3e-6 * width**1.5 * depth}
        for width in (64, 256)
        for depth in (2, 8)
    ]
    width, depth, batch = update_cost.exponents(rows)
    assert (width, depth) == pytest.approx((1.5, 1))
    assert batch != batch, "one batch size alone has no exponent"


@pytest.mark.parametrize("agent", ["ppo", "a2c"])
def test_throughput_reports_a_ratio(agent, capsys):
    throughput.main(["--agents", agent, "--envs", "2", "--rounds", "2", "--timesteps", "64"])
    assert agent in capsys.readouterr().out


@pytest.mark.parametrize("rule", ["node_perturbation", "weight_perturbation", "forward_gradient"])
@pytest.mark.parametrize(("depth", "batch"), [(2, 256), (4, 64)])
def test_perturbation_costs_little_more_than_its_extra_sweeps(rule, depth, batch):
    """K draws need K sweeps; all else that a rule does may be at most half of that."""
    row = update_cost.cost(rule, 64, depth, batch, seconds=0)
    sweep = 2 * batch * 64**2 * depth
    assert row["flops"] <= 1.5 * make_rule(rule).draws * sweep
