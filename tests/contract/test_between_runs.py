"""Representations between runs: on common probes, from folders alone."""

import json
import math
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from conftest import TINY
from safetensors.torch import load_file, save_file

from agents import load_model
from bio_rl.analysis.models import Model
from bio_rl.analysis.representations import Comparison, NotComparable, Subject, common_probes, compare_representations
from bio_rl.analysis.runs import Run
from bio_rl.cli import main
from bio_rl.diagnostics.representations import activities_of, debiased_cka, procrustes_distance, rsa

NARROW = ("network.hidden=[6,5]", "diagnostics=light", "diagnostics.interval=32", "diagnostics.probes=12")
MADE = {
    "kolen": ("rule=kolen_pollack",),
    # It acts by dynamics of its own.
    "relaxing": ("rule=equilibrium_propagation",),
    "other_seed": ("rule=kolen_pollack", "seed=1"),
    "wide": ("rule=backprop", "seed=2", "network.hidden=[9,7]"),
    "deep": ("rule=backprop", "seed=3", "network.hidden=[6,5,4]"),
}


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of runs of one task, by the names of ``MADE``."""
    place = tmp_path_factory.mktemp("compared")
    for name, settings in MADE.items():
        given = {each.partition("=")[0] for each in settings}
        shared = [each for each in (*TINY, *NARROW) if each.partition("=")[0] not in given]
        assert main(["train", *shared, *settings, f"hydra.run.dir={place / name}"]) == 0
    return place


@pytest.fixture
def runs(folders: Path) -> Callable[..., list[Run]]:
    """``runs("kolen", ...)``: copies that a test may spoil."""

    def copied(*names: str) -> list[Run]:
        return [Run(Path(shutil.copytree(folders / name, name, dirs_exist_ok=True))) for name in names]

    return copied


def values(found: Comparison) -> dict[tuple[str, int, Subject, Subject], tuple[float, float, float]]:
    return {row[:4]: row[4:] for row in found.rows}


@pytest.mark.parametrize("name", ["kolen", "relaxing"])
def test_networks_from_a_folder_are_those_that_the_agent_had(runs: Callable[..., list[Run]], name: str) -> None:
    (run,) = runs(name)
    assert run.probes is not None
    networks = Model(run, "checkpoints/untrained").networks
    assert networks.keys() == run.probes.untrained.keys()
    for key, network in networks.items():
        found = activities_of(network, run.probes.observations)
        torch.testing.assert_close(found, run.probes.untrained[key], rtol=0, atol=0)
    agent = load_model(name)
    for key, network in Model(run, "model").networks.items():
        theirs = activities_of(agent.policy.networks[key], run.probes.observations)
        torch.testing.assert_close(activities_of(network, run.probes.observations), theirs, rtol=0, atol=0)


def test_each_number_is_that_of_the_two_layers_alone(runs: Callable[..., list[Run]]) -> None:
    compared = runs("kolen", "other_seed", "wide")
    found = values(compare_representations(compared))
    probes = common_probes(compared)
    subjects = [Subject(number, trained) for number in range(3) for trained in (False, True)]
    assert len(found) == 2 * 3 * math.comb(len(subjects), 2)
    shown = {
        subject: {
            name: activities_of(network, probes)
            for name, network in Model(
                compared[subject.run], "model" if subject.trained else "checkpoints/untrained"
            ).networks.items()
        }
        for subject in subjects
    }
    for (network, layer, one, other), numbers in found.items():
        pair = [shown[subject][network][layer - 1] for subject in (one, other)]
        alone = [float(measure(*pair)) for measure in (debiased_cka, procrustes_distance, rsa)]
        assert numbers == pytest.approx(alone, abs=1e-9)


def test_runs_of_one_seed_began_alike(runs: Callable[..., list[Run]]) -> None:
    found = values(compare_representations(runs("kolen", "relaxing")))
    untrained = Subject(0, False), Subject(1, False)
    # The first layer, whose weights are the same; further up equilibrium propagation acts by its own dynamics.
    cka, procrustes, correlation = found["critic", 1, *untrained]
    assert (cka, correlation) == pytest.approx((1, 1), abs=0.01)
    assert procrustes < 0.1


def test_probes_are_shared_evenly_and_once(runs: Callable[..., list[Run]]) -> None:
    kolen, relaxing, other = runs("kolen", "relaxing", "other_seed")
    own, others = (load_file(f"{run}/probes.safetensors")["observations"] for run in (kolen, other))
    assert common_probes([kolen, relaxing]).equal(own), "they are of one seed"
    together = common_probes([kolen, relaxing, other], most=8)
    assert len(together) == 8
    assert all(any(torch.equal(row, each) for each in own) for row in together[:4])
    assert all(any(torch.equal(row, each) for each in others) for row in together[4:])
    assert common_probes([other, kolen], most=8).sort(0).values.equal(together.sort(0).values), "in any order"


def test_an_order_of_runs_decides_nothing(runs: Callable[..., list[Run]]) -> None:
    one, other = runs("kolen", "other_seed")
    there, back = values(compare_representations([one, other])), values(compare_representations([other, one]))
    for (network, layer, first, second), numbers in there.items():
        turned = (Subject(1 - each.run, each.trained) for each in (first, second))
        mirrored = sorted(turned)
        assert back[network, layer, mirrored[0], mirrored[1]] == pytest.approx(numbers, abs=1e-9)


def test_networks_of_other_depths_are_compared_where_they_have_the_same_layers(
    runs: Callable[..., list[Run]],
) -> None:
    found = compare_representations(runs("kolen", "deep"))
    both = {(row.network, row.layer) for row in found.rows if row.one.run != row.other.run}
    assert both == {(network, layer) for network in ("actor", "critic") for layer in (1, 2)}
    assert {row.layer for row in found.rows if row.one.run == row.other.run == 1} == {1, 2, 3, 4}


def test_the_untrained_are_known_by_their_own_probes_without_a_model(runs: Callable[..., list[Run]]) -> None:
    kept = values(compare_representations(runs("kolen")))
    shutil.rmtree("kolen/checkpoints")
    assert values(compare_representations([Run(Path("kolen"))])) == kept
    found = compare_representations([Run(Path("kolen")), *runs("other_seed")])
    assert found.problems == [
        "the untrained networks of kolen are not compared: it has kept none, which diagnostics=light does"
    ]
    assert {row.one for row in found.rows} == {Subject(0, True), Subject(1, False)}


def test_what_cannot_be_read_is_told_and_the_rest_compared(runs: Callable[..., list[Run]]) -> None:
    compared = runs("kolen", "other_seed")
    content = Path("kolen/model/policy.safetensors").read_bytes()
    Path("kolen/model/policy.safetensors").write_bytes(content[: len(content) // 2])
    found = compare_representations(compared)
    assert len(found.problems) == 1
    assert found.problems[0].startswith(
        "the trained networks of kolen are not compared: kolen/model/policy.safetensors cannot be read: "
    )
    assert {row.other for row in found.rows} == {Subject(1, False), Subject(1, True)}


def test_a_run_without_probes_is_shown_the_others(runs: Callable[..., list[Run]]) -> None:
    compared = runs("kolen", "other_seed")
    Path("other_seed/probes.safetensors").unlink()
    found = compare_representations(compared)
    assert found.problems == []
    assert Subject(1, True) in {row.other for row in found.rows}


def other_task(folder: str) -> None:
    result = json.loads(Path(folder, "result.json").read_text())
    Path(folder, "result.json").write_text(json.dumps(result | {"env_id": "Acrobot-v1"}))


def other_probes(folder: str) -> None:
    save_file({"observations": torch.randn(12, 6), "actor.layer_1": torch.randn(12, 3)}, f"{folder}/probes.safetensors")


def few_probes(folder: str) -> None:
    for each in ("kolen", folder):
        save_file({"observations": torch.ones(3, 4)}, f"{each}/probes.safetensors")


def no_probes(folder: str) -> None:
    for each in ("kolen", folder):
        Path(each, "probes.safetensors").unlink()


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (other_task, "kolen is of CartPole-v1 and other_seed of Acrobot-v1: only runs of one task have common probes"),
        (other_probes, "the probes of kolen and of other_seed do not go together: of sizes (4,) and (6,)"),
        (few_probes, "there must be at least 4 probes, and there are 3"),
        (no_probes, "none of the 2 runs has probes; diagnostics=light keeps them"),
    ],
)
def test_runs_that_cannot_be_compared_are_told_in_a_line(
    runs: Callable[..., list[Run]], spoil: Callable[[str], None], message: str
) -> None:
    runs("kolen", "other_seed")
    spoil("other_seed")
    with pytest.raises(NotComparable) as told:
        compare_representations([Run(Path("kolen")), Run(Path("other_seed"))])
    assert str(told.value) == message
