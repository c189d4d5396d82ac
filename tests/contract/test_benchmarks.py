"""The benchmark programs run, and count what can be counted exactly."""

import csv
import json
import math
import os
import re
import time
from typing import NamedTuple

import numpy as np
import pytest
import torch

from benchmarks import diagnostics, mutants, nudge, soak, sweep, throughput, update_cost, variance
from bio_rl import Network, make_rule


@pytest.fixture(autouse=True)
def _threads_as_before():
    threads = torch.get_num_threads()
    yield
    torch.set_num_threads(threads)


def test_update_cost_writes_a_row_for_each_rule_and_size(tmp_path, capsys):
    path = tmp_path / "cost.csv"
    sizes = ["--widths", "8", "16", "--depths", "2", "--batches", "4", "--seconds", "0"]
    rules = ("bare", "backprop", "feedback_alignment")
    update_cost.main(["--rules", *rules, *sizes, "--csv", str(path)])
    with path.open() as file:
        rows = list(csv.DictReader(file))
    assert [(row["rule"], row["width"]) for row in rows] == [(rule, width) for rule in rules for width in ("8", "16")]
    for row in rows:
        # Two forward products, one backward, two outer ones; autograd's are the same.
        assert int(row["flops"]) == 5 * 2 * 4 * int(row["width"]) ** 2
        assert float(row["arithmetic_ratio"]) == 1
        assert float(row["time_ratio"]) > 0
    assert "feedback_alignment" in capsys.readouterr().out


def test_the_cost_of_diagnostics_is_a_share_of_the_runs_own_time(capsys):
    diagnostics.main(["--settings", "full", "--agents", "ppo", "--rules", "backprop", "--steps", "512"])
    out = capsys.readouterr().out
    # Before the first update and at the end.
    assert re.search(r"full\W+ppo\W+backprop\W+2\W+[\d.]+\W+[\d.]+%", out), out


def test_the_bare_boundary_gives_the_gradient():
    plain = update_cost.plain_network(8, 3).double()
    x, output_error = torch.randn(2, 5, 8, dtype=torch.float64)
    gradients = []
    for model in (update_cost.Bare(plain), plain):
        update_cost.one_update(model, x, output_error)()
        gradients.append([parameter.grad for parameter in model.parameters()])
    torch.testing.assert_close(*gradients)


@pytest.mark.parametrize("rule", ["backprop", "feedback_alignment", "direct_feedback_alignment", "sign_symmetry"])
@pytest.mark.parametrize(("width", "depth", "batch"), [(64, 8, 64), (64, 2, 512), (256, 4, 16)])
def test_an_update_needs_no_more_memory_than_autograds(rule, width, depth, batch):
    plain = update_cost.plain_network(width, depth)
    network = Network.from_sequential(plain, make_rule(rule))
    x, output_error = torch.randn(batch, width), torch.randn(batch, width)
    ours, autograds = (
        update_cost.peak_bytes(update_cost.one_update(model, x, output_error)) for model in (network, plain)
    )
    assert ours <= autograds


@pytest.mark.parametrize(
    ("rule", "settings"),
    [
        ("predictive_coding", {"variant": "inference"}),
        ("predictive_coding", {"variant": "incremental"}),
        ("predictive_coding", {"variant": "error_based"}),
        ("equilibrium_propagation", {"nudging": "symmetric"}),
        ("equilibrium_propagation", {"nudging": "one_sided"}),
        ("equilibrium_propagation", {"feedback": "learnt"}),
        ("deep_feedback_control", {"feedback": "learnt"}),
        ("deep_feedback_control", {"feedback": "transpose"}),
    ],
)
def test_memory_does_not_grow_with_the_steps_of_a_relaxation(rule, settings):
    """Of all but ``fixed_prediction``, which is done after as many steps as there are layers."""
    few, many = (relaxation_cost(rule, steps, settings) for steps in (4, 40))
    assert many.memory == few.memory
    assert many.flops > few.flops, "the first stopped early"


class RelaxationCost(NamedTuple):
    memory: int
    flops: int


def relaxation_cost(rule, steps, settings):
    """One update's memory and arithmetic where no tolerance ends a relaxation before its last step."""
    torch.manual_seed(0)
    network = Network.from_sequential(
        update_cost.plain_network(32, 4), make_rule(rule, steps=steps, tolerance=1e-30, **settings)
    ).double()
    x, output_error = torch.randn(2, 16, 32, dtype=torch.float64)
    update = update_cost.one_update(network, x, output_error)
    return RelaxationCost(update_cost.peak_bytes(update), update_cost.matrix_flops(update))


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


@pytest.mark.parametrize("case", ["ppo-cartpole", "a2c-cartpole"])
def test_throughput_reports_a_ratio(case, capsys):
    throughput.main(["--cases", case, "--members", "1", "2", "--rounds", "2", "--timesteps", "64"])
    assert case in capsys.readouterr().out


@pytest.mark.slow
def test_throughput_compares_rules_with_themselves_alone(capsys):
    rules = ["backprop", "kolen_pollack"]
    throughput.main(["--members", "2", "--rounds", "2", "--timesteps", "64", "--rules", *rules])
    assert all(rule in capsys.readouterr().out for rule in rules[1:])


@pytest.mark.slow
def test_the_curve_over_members_is_a_table_and_a_picture(tmp_path, monkeypatch):
    monkeypatch.setattr(throughput, "CURVE", (1, 2))
    throughput.main(["--curve", "--rounds", "2", "--timesteps", "64", "--output", str(tmp_path / "curve")])
    with (tmp_path / "curve.csv").open() as file:
        assert [row["members"] for row in csv.DictReader(file)] == ["1", "2"]
    assert (tmp_path / "curve.png").stat().st_size > 0


@pytest.mark.parametrize("rule", ["node_perturbation", "weight_perturbation", "forward_gradient"])
@pytest.mark.parametrize(("depth", "batch"), [(2, 256), (4, 64)])
def test_perturbation_costs_little_more_than_its_extra_sweeps(rule, depth, batch):
    """K draws need K sweeps; all else that a rule does may be at most half of that."""
    row = update_cost.cost(rule, 64, depth, batch, seconds=0)
    sweep, draws = 2 * batch * 64**2 * depth, make_rule(rule).draws
    assert row["flops"] <= 1.5 * draws * sweep
    autograd = row["flops"] / row["arithmetic_ratio"]
    assert row["arithmetic_over_draws"] == pytest.approx(row["flops"] / (autograd + draws * sweep))


@pytest.mark.slow
def test_variance_writes_a_row_for_each_network_and_a_figure(tmp_path, capsys):
    rules = ["backprop", "feedback_alignment", "node_perturbation"]
    variance.main(["--quick", "--repeats", "3", "--seeds", "2", "--output", str(tmp_path / "v"), "--rules", *rules])
    with (tmp_path / "v.csv").open() as file:
        rows = list(csv.DictReader(file))
    sizes = {(row["width"], row["depth"]) for row in rows if row["updates"] == "0"}
    assert sizes == {("16", "2"), ("64", "2"), ("256", "1"), ("256", "2")}
    # Two networks of each size, and once more after learning for the two rules that have feedback.
    assert len(rows) == 2 * (len(sizes) * 3 + 2)
    for row in rows:
        if row["rule"] == "backprop":
            assert float(row["angle"]) < 0.01
            assert float(row["samples"]) == variance.BATCH
        elif row["rule"] == "feedback_alignment":
            assert float(row["samples"]) == math.inf
        else:
            assert variance.BATCH < float(row["samples"]) < math.inf
    assert (tmp_path / "v.png").stat().st_size < 200_000
    assert "neurons" in capsys.readouterr().out


@pytest.mark.parametrize("rule", ["node_perturbation", "weight_perturbation", "forward_gradient"])
def test_so_many_samples_do_reach_the_cosine(rule):
    """The samples are extrapolated from noisy updates: here they are drawn, all of them in one update."""
    rows = variance.measure(rule, 16, 1, 0, seeds=4, repeats=32)
    network = variance.make_network(rule, 16, 1, 4)
    x, output_error = variance.task_error(network, variance.random_teacher(network))
    exact = variance.hidden_update(variance.with_rule(network, "backprop"), x, output_error)
    network.rule.draws = round(variance.geometric_mean([row.samples for row in rows]) / variance.BATCH)
    cosine = torch.nn.functional.cosine_similarity(variance.hidden_update(network, x, output_error), exact)
    assert cosine.mean().item() == pytest.approx(variance.COSINE, abs=0.03)


@pytest.mark.parametrize(
    ("bias", "noise", "reached"), [(0, 0, True), (0.3, 0, True), (0.3, 0.1, True), (1, 0.1, False)]
)
def test_bias_and_noise_are_told_apart(bias, noise, reached):
    exact, other, *draws = torch.randn(66, 2000)
    other = bias * (other - other @ exact / (exact @ exact) * exact) * (exact.norm() / other.norm())
    updates = [exact + other + noise * draw for draw in draws]
    angle, snr, limit, needed = variance.statistics(updates, exact)
    assert limit == pytest.approx((1 + bias**2) ** -0.5, abs=0.01)
    assert (needed < math.inf) == reached
    if noise:
        length = exact.square().sum().item()
        assert snr == pytest.approx((1 + bias**2) * length / (noise**2 * 2000), rel=0.05)
        assert math.cos(math.radians(angle)) == pytest.approx(
            (1 + bias**2 + noise**2 * 2000 / length) ** -0.5, rel=0.02
        )
    else:
        assert snr > 1e9


def test_exponents_are_recovered():
    rows = [
        variance.Measurement("node_perturbation", w, d, 0, 0, w * d, w * w * d, 4, 80, 0.1, 1, 7.0 * (w * d) ** 0.8)
        for w, d in ((16, 1), (16, 8), (64, 1), (64, 8))
    ]
    assert variance.fit(rows, "neurons") == pytest.approx((0.8, 1))
    exponent, explained = variance.fit(rows, "weights")
    assert exponent < 0.75
    assert explained < 0.9
    assert "0.80" in list(variance.exponent_table(rows))[1]


def test_the_nudge_is_measured_once_and_both_presets_are_told_apart_or_not(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(nudge, "SHARES", (1.0,))
    arguments = ["--rules", "burst", "--seeds", "2", "--timesteps", "512", "--output", str(tmp_path / "nudge")]
    nudge.main(arguments)
    table = (tmp_path / "nudge.csv").read_text()
    assert len(table.splitlines()) == 1 + 2 * 2
    assert (tmp_path / "nudge.png").stat().st_size > 1000
    *_, row = capsys.readouterr().out.splitlines()
    assert re.fullmatch(r"\| `burst` \| \d+° → \d+° \| \d+° → \d+° \|.*\|", row)
    nudge.main(arguments)
    assert (tmp_path / "nudge.csv").read_text() == table, "what is there is not run again"


def looks(held=0.0, resident=0.0, files=5, threads=1):
    """An hour of looks at a process that grows by so many MiB, and by files and threads in its second half."""
    hours = np.linspace(0, 1, 600)
    noise = np.random.default_rng(0).uniform(0, 1, 600)
    late = hours > 0.8
    return soak.Looks(
        hours,
        270 + held * hours + noise,
        400 + resident * hours + noise,
        5 + (files - 5) * late,
        1 + (threads - 1) * late,
    )


def test_a_soak_notices_what_grows(capsys):
    assert soak.report("flat", looks()) == 0
    assert soak.report("held", looks(held=3)) == 1
    assert "held 270" in (out := capsys.readouterr().out)
    assert re.search(r"held .* \+[23]\.\d\d \(± 0\.\d\d\) an hour", out)
    assert soak.report("resident", looks(resident=3)) == 1
    assert soak.report("files", looks(files=9)) == 1
    assert soak.report("threads", looks(threads=2)) == 1
    with pytest.raises(SystemExit, match="ask for more"):
        soak.report("short", soak.Looks(*(each[:9] for each in looks())))


@pytest.mark.slow
def test_a_soak_sees_what_is_held(tmp_path, monkeypatch):
    monkeypatch.setattr(soak, "EVERY", 0.05)
    watch = soak.Watch(tmp_path / "looks.csv")
    kept = []
    with watch:
        for _ in range(20):
            kept.append(np.ones(2**17))
            time.sleep(0.1)
    seen = watch.seen()
    assert seen.held[-1] - seen.held[0] > 10
    assert seen.threads.max() >= 2


SWEEP = ["--jobs", "1", "--members", "2", "--timesteps", "64", "--rounds", "2"]


def test_every_launcher_is_compared_with_itself_and_with_none(capsys, monkeypatch):
    """Rates that are made up: 8 side by side are 6 times as fast as one without a launcher, and 4.5 times with one."""
    monkeypatch.setitem(sweep.LAUNCHERS, "joblib", sweep.Launcher("tests", "hydra.launcher.n_jobs"))
    monkeypatch.setitem(sweep.LAUNCHERS, "ray", sweep.Launcher("hydra_plugins.not_installed", None))
    speed, factor = {1: 100, 8: 600}, {sweep.ALONE: 1, "joblib": 0.75}

    def made_up(side, timesteps=None):
        disturbed = len(side.turns) == 0
        slower = 1 if side.workers == 1 else factor[side.launcher]
        return sweep.Turn(speed[side.workers] * slower / (1 + disturbed * side.workers), start=side.workers)

    monkeypatch.setattr(sweep.Side, "take_turn", made_up)
    sweep.main([*SWEEP, "--workers", "8", "--launchers", "ray", "joblib"])
    out = capsys.readouterr().out
    assert 'ray is not installed and left out: pip install "bio-rl[ray]" brings it' in out
    assert "8 processes without a launcher came to 6.00 times the rate of one" in out
    assert re.search(r"none\W+100\W+600\W+6.00\W+1.33 to 6.00\W+1.00\W+1.0 s\W+8.0 s", out)
    assert re.search(r"joblib\W+100\W+450\W+4.50\W+1.00 to 4.50\W+0.75\W+1.0 s\W+8.0 s", out)


@pytest.mark.parametrize("launcher", [sweep.ALONE, *sweep.LAUNCHERS])
def test_any_number_of_workers_makes_the_same_sweep(launcher):
    options = sweep.parse(["--workers", "3", "--jobs", "2", "--members", "2", "--timesteps", "64"])
    work = []
    for workers in (1, 3):
        commands = list(sweep.Side(launcher, workers, options).commands(64))
        assert len(commands) == (workers if launcher == sweep.ALONE else 1)
        given = [dict(text.split("=", 1) for text in command if "=" in text) for command in commands]
        seeds = [int(seed) for each in given for seed in each["seed"].split(",")]
        assert sorted(seeds) == list(range(0, 2 * len(seeds), 2)), "none is made twice"
        work.append(len(seeds) * int(given[0]["env.timesteps"]))
    assert work == [6 * 64, 6 * 64]


def test_a_sweep_lasts_from_its_first_runs_beginning_to_its_lasts_end(tmp_path):
    for name, ended, seconds in (("a", 1000, 10), ("b", 1004, 11), ("c", 1012, 8)):
        file = tmp_path / name / "result.json"
        file.parent.mkdir()
        file.write_text(json.dumps({"timesteps": 100, "wall_seconds": seconds}))
        os.utime(file, (ended, ended))
    assert sweep.steps_and_seconds(tmp_path) == (300, 22)


def test_a_sweep_that_fails_says_why(tmp_path):
    options = sweep.parse(SWEEP)
    with pytest.raises(RuntimeError, match=r"exit code 2: bio-rl train: .*env\.timesteps"):
        sweep.Side(sweep.ALONE, 1, options).take_turn(timesteps=-1)


@pytest.mark.slow
def test_launchers_are_compared(capsys):
    sweep.main([*SWEEP, "--launchers", "joblib"])
    assert re.search(r"joblib\W+\d+\W+\d+\W+\d\.\d\d\W", capsys.readouterr().out)


TINY_PLAN = """
[[room]]
files = ["area.py"]
tests = ["test_area.py"]
"""
TINY_REASON = """
[[equivalent]]
file = "area.py"
old = "0"
new = "1"
why = "No height is under one."
"""


@pytest.fixture
def tiny(tmp_path, monkeypatch):
    """A tree with a fault that its test notices, and one that it does not; and what mutates it."""
    monkeypatch.setattr(mutants, "PRELOADED", ["pytest"])
    tree = tmp_path / "tree"
    tree.mkdir()
    (tree / "area.py").write_text("def area(width, height):\n    return width * max(height, 0)\n")
    (tree / "test_area.py").write_text("from area import area\n\ndef test_area():\n    assert area(2, 3) == 6\n")
    (tree / "plan.toml").write_text(TINY_PLAN)

    def run(**more):
        options = {"plan": tree / "plan.toml", "tree": tree, "output": tmp_path / "mutants.csv", "each": 10, **more}
        return mutants.main([text for name, value in options.items() for text in (f"--{name}", str(value))])

    return tree, run


def test_a_mutant_survives_where_no_test_notices_until_a_reason_is_given(tiny, tmp_path, capsys):
    tree, run = tiny
    before = (tree / "area.py").read_bytes()
    assert run() == 1
    with (tmp_path / "mutants.csv").open() as file:
        outcomes = {row["new"]: row["outcome"] for row in csv.DictReader(file)}
    assert outcomes == {"": "passed", "(width / max(height, 0))": "killed", "1": "survived"}
    assert (tree / "area.py").read_bytes() == before
    assert "0  ->  1\n  NOT EXPLAINED" in capsys.readouterr().out
    (tree / "other.py").write_text("def other(number):\n    return number + 1\n")
    (tree / "plan.toml").write_text(TINY_PLAN.replace('["area.py"]', '["area.py", "other.py"]'))
    run(only="other.py")
    found = {(row.file, row.outcome) for row in mutants.read_rows(tmp_path / "mutants.csv")}
    assert ("area.py", "survived") in found, "files that are not asked for keep what was found"
    assert ("other.py", "survived") in found
    (tree / "plan.toml").write_text(TINY_PLAN + TINY_REASON)
    assert run() == 0
    out = capsys.readouterr().out
    assert "1/1 survived" in out, "what was killed is not tried again"
    assert "No height is under one." in out


def test_tests_that_fail_by_themselves_count_no_mutant_as_noticed(tiny, tmp_path, capsys):
    tree, run = tiny
    (tree / "test_area.py").write_text("def test_area():\n    assert False\n")
    assert run() == 1
    assert "test_area.py: fail, or take too long, without a mutant" in capsys.readouterr().out
    rows = mutants.read_rows(tmp_path / "mutants.csv")
    assert {row.outcome for row in rows} == {"failed", "killed"}


def test_what_works_for_ever_hangs_and_what_waits_its_turn_does_not(tiny, tmp_path):
    tree, run = tiny
    (tree / "area.py").write_text("def count_down(n):\n    while n:\n        n -= n\n")
    (tree / "test_area.py").write_text(
        "import time\nfrom area import count_down\n\ndef test_it():\n    time.sleep(1.5)\n    count_down(3)\n"
    )
    assert run(seconds=2) == 0
    outcomes = {row.new: row.outcome for row in mutants.read_rows(tmp_path / "mutants.csv")}
    assert outcomes == {"": "passed", "n += n": "hung"}


@pytest.mark.parametrize(
    ("source", "expected"),
    [
        ("x = a + b.mT", ["(a - b.mT)", "b"]),
        ("if not done[0]:\n    pass", ["done[0]", "1"]),
        ("total -= x.sum(-1)", ["total += x.sum(-1)", "x.mean(-1)", "1", "2"]),
        ("os.replace(a, b)", ["pass"]),
        ("'a docstring'\nraise ValueError(f'{a + 1}')", []),
    ],
)
def test_what_a_source_is_mutated_to(source, expected):
    inside = "def f():\n    " + source.replace("\n", "\n    ")
    found = list(mutants.all_mutants(inside.encode()))
    assert sorted(mutant.new for mutant in found) == sorted(expected)
    for mutant in found:
        compile(mutant.applied(inside.encode()), "mutant", "exec")
