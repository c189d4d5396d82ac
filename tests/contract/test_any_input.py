"""Whatever a command is given: it does what was asked for, or says in a line what it cannot; never a stack trace.

The default run tries a few cases, the same ones each time, and trains no valid configuration, which takes longer.
``pytest -m slow tests/contract/test_any_input.py`` tries 500 bad configurations, 200 valid ones, 100 pairs of spaces
and 200 damaged folders. (That a folder executes nothing is ``test_untrusted.py``'s.)
"""

import inspect
import io
import json
import math
import re
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import chdir, contextmanager, redirect_stderr, redirect_stdout
from pathlib import Path
from typing import Annotated, Any, Literal, get_args, get_origin

import gymnasium
import numpy as np
import pytest
import yaml
from gymnasium import spaces
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st

from bio_rl.activations import ACTIVATIONS
from bio_rl.cli import main
from bio_rl.cli.configs import compose, plain
from bio_rl.experiment.settings import RANGES
from bio_rl.rules import rule_class, rule_names
from bio_rl.settings import Between

LONGEST_LINE, MOST_LINES = 900, 12
TINY = {
    "env.timesteps": "200",
    "env.n_envs": "2",
    "evaluation.episodes": "1",
    "evaluation.interval": "100",
    "env.max_episode_steps": "50",
    "logging": "none",
    "hydra.run.dir": "run",
}
AGENTS = {
    "ppo": {"agent.n_steps": "32", "agent.batch_size": "16", "agent.n_epochs": "2"},
    "a2c": {"agent.n_steps": "8"},
    "reinforce": {"agent.n_episodes": "2"},
}
TASKS = (
    {"env": "cartpole"},
    {"env": "pendulum"},
    {"env": "digits"},
    {"env": "two_step"},
    {"env": "cue_maze"},
    {"env": "centre_out"},
    {"env": "delayed_match"},
    {"env": "context_decision"},
    {"env": "gymnasium", "env.id": "FrozenLake-v1"},
    {"env": "gymnasium", "env.id": "odd_tasks:Nested-v0"},
    {"env": "gymnasium", "env.id": "odd_tasks:NoisyParts-v0"},
    {"env": "gymnasium", "env.id": "odd_tasks:Acts-v0"},
)
LOG_STD = "network.log_std_init"
FEW = 8
"""Sweeps, draws and samples at most: more of them take longer, and are no other case."""
NAMES_ITSELF = re.compile(
    r"steps of at least|window must be at most|layer \d+ is|batch_size|network\.shared_trunk|needs"
    r"|env\.normalize_observation=true: only observations in a Box"
)
"""What settings that are each allowed have against each other."""


OPTIONS: dict[str, Any] = {
    "deadline": None,
    "derandomize": True,
    "database": None,
    "suppress_health_check": [HealthCheck.too_slow, HealthCheck.data_too_large],
}


def few(number: int) -> Any:
    """So many cases, in the default run."""
    return pytest.param(settings(max_examples=number, **OPTIONS), id="few")


def every(number: int) -> Any:
    return pytest.param(settings(max_examples=number, **OPTIONS), id="all", marks=pytest.mark.slow)


@contextmanager
def elsewhere() -> Iterator[Path]:
    with tempfile.TemporaryDirectory() as folder, chdir(folder):
        yield Path(folder)


def command(*arguments: str) -> tuple[int, str, str]:
    """The exit code, stdout and stderr of a command; whatever happens, no stack trace and nothing long."""
    out, err = io.StringIO(), io.StringIO()
    with redirect_stdout(out), redirect_stderr(err):
        code = main(arguments)
    if code > 128:  # a signal ended the command; it was meant for the tests
        raise KeyboardInterrupt
    said = err.getvalue()
    assert "Traceback" not in out.getvalue() + said
    assert said.count("\n") <= MOST_LINES, said
    assert all(len(line) <= LONGEST_LINE for line in said.splitlines()), said
    return code, out.getvalue(), said


def lines(overrides: dict[str, str]) -> list[str]:
    return [f"{key}={value}" for key, value in overrides.items()]


def refused(*overrides: str) -> str:
    """What the command has against them, in one line and before anything is written."""
    given_keys = {each.lstrip("+~").partition("=")[0] for each in overrides} | {"hydra.run.dir"}
    small = [] if "-m" in overrides else [each for each in lines(TINY) if each.partition("=")[0] not in given_keys]
    with elsewhere() as folder:
        code, out, err = command("train", *small, *overrides)
        assert code == 2, (code, out, err)
        assert out == ""
        assert err.startswith("bio-rl train: ")
        assert err.count("\n") == 1
        assert list(folder.iterdir()) == []
    return err


# -- valid configurations ----------------------------------------------------------------


def numbers_in(low: float, high: float) -> st.SearchStrategy[float]:
    """Of each order of magnitude alike; only such as single precision has."""
    small, large = math.log10(max(low, 1e-9)), math.log10(min(high, 1e9))
    scaled = st.floats(small, large).map(lambda power: min(max(10.0**power, low), high))
    return scaled | st.sampled_from([low, high])


def values_of(kind: Any) -> st.SearchStrategy[Any]:
    """What a rule's setting may be, by its declaration."""
    if get_origin(kind) is Literal:
        return st.sampled_from(get_args(kind))
    if kind is bool:
        return st.booleans()
    number, *notes = get_args(kind) if get_origin(kind) is Annotated else (kind,)
    limits = next(note for note in notes if isinstance(note, Between))
    if number is int:
        return st.integers(int(limits.low), FEW)
    return numbers_in(limits.low, limits.high)


def settings_of(name: str) -> dict[str, Any]:
    """The kinds of a rule's settings that are not another rule's."""
    parameters = inspect.signature(rule_class(name), eval_str=True).parameters
    return {
        key: each.annotation
        for key, each in parameters.items()
        if get_origin(each.annotation) in (Annotated, Literal) or each.annotation is bool
    }


@st.composite
def rules(draw: st.DrawFn, group: str) -> dict[str, str]:
    name = draw(st.sampled_from(rule_names()))
    found = {group: name}
    kinds = settings_of(name)
    for key in draw(st.lists(st.sampled_from(sorted(kinds)), unique=True)) if kinds else []:
        found[f"{group}.{key}"] = as_override(draw(values_of(kinds[key])))
    # Each is allowed, and a run of 200 steps with its default takes too long.
    for key in kinds.keys() & {"steps", "draws", "rounds", "samples"}:
        found.setdefault(f"{group}.{key}", str(FEW))
    if kinds.keys() >= {"duration", "time_step"}:
        found |= {f"{group}.duration": "2.0", f"{group}.time_step": "0.5"}
    if name == "gated":
        found[f"{group}.rule"] = draw(st.sampled_from([each for each in rule_names() if each != "gated"]))
    return found


@st.composite
def valid(draw: st.DrawFn) -> dict[str, str]:
    agent, optimizer = draw(st.sampled_from(sorted(AGENTS))), draw(st.sampled_from(["adam", "rmsprop", "sgd"]))
    found = TINY | {"agent": agent, "optimizer": optimizer} | AGENTS[agent] | draw(st.sampled_from(TASKS))
    found |= draw(rules("rule"))
    if draw(st.booleans()):
        found |= draw(rules("critic_rule"))
    widths = st.lists(st.integers(1, 12), max_size=3).map(as_override)
    network = draw(st.sampled_from(["mlp", "separate"]))
    hidden = ["network.hidden"] if network == "mlp" else ["network.hidden.actor", "network.hidden.critic"]
    found |= {"network": network} | {key: draw(widths) for key in hidden}
    others = {
        "network.activation": st.sampled_from(sorted(ACTIVATIONS)),
        "network.ortho_init": st.booleans(),
        LOG_STD: st.floats(RANGES[LOG_STD].low, RANGES[LOG_STD].high, width=32, allow_subnormal=False),
        "env.n_envs": st.integers(1, 3),
        "env.normalize_observation": st.booleans(),
        "env.normalize_reward": st.booleans(),
        "members": st.integers(1, 2),
        "seed": st.integers(0, 2**31 - 3),
        "diagnostics": st.sampled_from(["off", "light", "full"]),
        "evaluation.deterministic": st.booleans(),
        "evaluation.checkpoints": st.sampled_from(["best_and_last", "all", "none"]),
        "optimizer.learning_rate": numbers_in(1e-6, 1).flatmap(
            lambda rate: st.sampled_from([repr(rate), f"lin_{rate!r}"])
        ),
        "optimizer.weight_decay": st.sampled_from([0.0, 0.01]),
        "agent.gamma": st.floats(0, 1, width=16),
        "agent.ent_coef": st.sampled_from([0.0, 0.01]),
        "agent.normalize_advantage": st.booleans(),
    }
    for key in draw(st.lists(st.sampled_from(sorted(others)), unique=True)):
        found[key] = as_override(draw(others[key]))
    return found


def as_override(value: object) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)


@pytest.mark.parametrize("how", [every(200)])
def test_a_valid_configuration_trains_as_it_was_asked_for(how: settings) -> None:
    how(given(asked=valid())(_a_valid_configuration_trains_as_it_was_asked_for))()


def _a_valid_configuration_trains_as_it_was_asked_for(asked: dict[str, str]) -> None:
    with elsewhere() as folder:
        code, out, err = command("train", *lines(asked))
        if code == 2:
            assert NAMES_ITSELF.search(err), err
            assert err.count("\n") == 1
            assert list(folder.iterdir()) == []
        assume(code != 2)
        runs = sorted(path.parent for path in Path("run").rglob("result.json"))
        assert len(runs) == int(asked.get("members", 1)), (out, err)
        results = [json.loads((run / "result.json").read_text()) for run in runs]
        assert {result["status"] for result in results} <= {"done", "diverged"}, err
        assert code == any(result["status"] != "done" for result in results)
        for run, result in zip(runs, results, strict=True):
            used = yaml.safe_load((run / ".hydra/config.yaml").read_text())
            for key, value in asked.items():
                if key in ("members", "seed") or key.startswith("hydra."):
                    continue
                if "." not in key:
                    # Of a task or a network, its own keys are compared; of a choice by name, the name.
                    assert key not in ("agent", "rule", "critic_rule") or result[key] == value, key
                    continue
                node: Any = used
                for name in key.split("."):
                    node = node[name]
                assert node == yaml.safe_load(value) or str(node) == value or node == float(value), key
            critic = "critic_rule" if "critic_rule" in asked else "rule"
            for part, group in (("actor", "rule"), ("critic", critic)):
                built = result.get("rule_settings", {}).get(part)
                for key, value in asked.items() if built else ():
                    owner, _, name = key.rpartition(".")
                    if owner == group and name in built:
                        assert as_override(built[name]) == value or built[name] == float(value), key


# -- bad configurations ------------------------------------------------------------------

DEFAULTS = plain(compose())
DIGITS = "9" * 5000
NEVER_RIGHT = st.sampled_from(
    [
        *("nan", "inf", "-inf", "-1", "-1e308", DIGITS, f"-{DIGITS}", "[1,2]", "[[[]]]", "{a:1}", "maybe", "a=b"),
        *("'\x07'", "''", "[" * 1000 + "]" * 1000, "${nowhere}", "${oc.env:NO_SUCH_VARIABLE}", "???", "${seed", "\\"),
    ]
)
MAY_BE_MINUS_ONE = ("agent.sde_sample_freq",)
# ~agent.gamma is not among them: it leaves the agent its own default, as the command itself says of ~.
HYDRAS_OWN = (
    "~seed", "~rule", "~env.timesteps", "~network", "~nothing", "~env.nothing",
    "+seed=1", "+new.key=1", "+agent.rule=readout", "+agent.seed=3", "++agent.rule=readout", "++new=1",
    "++seed=[1]", "agent={}", "rule={}", "rule@nowhere=backprop", "agent@x=ppo", "seed:1", "=1", "=", "seed", "@",
    "seed=range(0,3,0)", "seed=range(0,3)", "seed=choice(1,2)", "seed=1,2", "seed=glob(*)", "seed=interval(0,1)",
    "seed=sort(2,1)", "seed=${seed}", "seed=${nowhere}", "seed=???", "seed=${oc.decode:x}", "env.name=${hydra:nowhere}",
    "study=../x", "study=/tmp/x", "study=a/../../b", "env.name=../../x", "study=''", "study=' '", "study=" + "s" * 5000,
    "env.name=" + "n" * 300, "env.name=/proc/x", "hydra.run.dir=" + "d" * 5000, "hydra.run.dir=/proc/x",
    "hydra.job.env_copy=[NO_SUCH_VARIABLE]", "hydra.sweeper.params={seed:1}", "hydra.nothing=1", "hydra=x",
    "--run -m", "-m seed=range(0,3,0)", "-m seed=range(0)", "-m seed=1,1", "-m rule=backprop,nothing", "-m seed=",
    "seed=1 seed=2", "rule=backprop rule=readout", "overwrite=${seed}", "env.kwargs.nothing=1", "tuned=../../x",
    "rule=../agent/ppo", "rule=/etc/passwd", "env=cartpole/..", "torch_threads=2147483648", "torch_threads=1000000",
    "evaluation.episodes=1000000000000", "env.n_envs=1000000", "rule=node_perturbation rule.draws=1000000000000",
    "device=cuda:99", "experiment=nothing", "optimizer.betas=[0.9,nan]", "network.hidden=[1000000000,1000000000]",
)  # fmt: skip


@st.composite
def misspelt(draw: st.DrawFn) -> str:
    """A key or a choice that is none, by one letter."""
    word = draw(st.sampled_from([*RANGES, *DEFAULTS, "rule=backprop", "env=cartpole", "agent=a2c", "network=mlp"]))
    place = draw(st.integers(0, len(word) - 1))
    wrong = word[:place] + draw(st.sampled_from("qxz_0")) + word[place + draw(st.integers(0, 1)) :]
    return wrong if "=" in wrong else f"{wrong}=1"


@st.composite
def bad_numbers(draw: st.DrawFn) -> str:
    """A setting of an agent, an optimizer or a run, with a value that it cannot have."""
    known = [key for key in RANGES if _is_default(key)]
    key = draw(st.sampled_from(known))
    allowed = RANGES[key]
    outside = [f"{allowed.low - 2:.0f}"] + ([str(2 * allowed.high)] if allowed.high < math.inf else [])
    value = draw(NEVER_RIGHT | st.sampled_from(outside + (["0.5", "1e3", "true"] if allowed.whole else ["true"])))
    assume(not (value == "-1" and key in MAY_BE_MINUS_ONE))
    return f"{key}={value}"


def _is_default(key: str) -> bool:
    node: Any = DEFAULTS
    for name in key.split("."):
        if not isinstance(node, dict) or name not in node:
            return False
        node = node[name]
    return True


@st.composite
def bad_rules(draw: st.DrawFn) -> str:
    """A rule's setting outside of its declaration."""
    group = draw(st.sampled_from(["rule", "critic_rule"]))
    name = draw(st.sampled_from([name for name in rule_names() if settings_of(name)]))
    key, kind = draw(st.sampled_from(sorted(settings_of(name).items(), key=lambda each: each[0])))
    value = draw(NEVER_RIGHT)
    if get_origin(kind) is Annotated:
        limits = next(note for note in get_args(kind) if isinstance(note, Between))
        value = draw(st.just(value) | st.sampled_from([str(limits.high * 2), str(limits.low - 1), "1e-320", "true"]))
    return f"{group}={name} {group}.{key}={value}"


BAD = st.sampled_from(HYDRAS_OWN) | misspelt() | bad_numbers() | bad_rules()


@pytest.mark.parametrize("how", [few(8), every(500)])
def test_a_bad_configuration_is_one_line_that_names_it(how: settings) -> None:
    how(given(line=BAD)(_a_bad_configuration_is_one_line_that_names_it))()


def _a_bad_configuration_is_one_line_that_names_it(line: str) -> None:
    arguments = ["hydra.run.dir=" + line[14:]] if line.startswith("hydra.run.dir=") else re.split(r" (?=\S)", line)
    err = refused(*arguments)
    # Of a value of thousands of letters, its beginning.
    words = [word[:30] for word in re.findall(r"[A-Za-z_]{2,}|\d+", line)]
    assert not words or any(word in err for word in words), err


# -- spaces ------------------------------------------------------------------------------


class AnySpaces(gymnasium.Env):
    """Episodes of 5 steps, with whatever spaces it is told; it samples its observations."""

    shown: tuple[spaces.Space[Any], spaces.Space[Any]] = (spaces.Discrete(2), spaces.Discrete(2))

    def __init__(self) -> None:
        self.observation_space, self.action_space = self.shown

    def reset(self, *, seed: int | None = None, options: Any = None) -> tuple[Any, dict[str, Any]]:
        super().reset(seed=seed)
        self.observation_space.seed(seed)
        self.time = 0
        return self.observation_space.sample(), {}

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        self.time += 1
        return self.observation_space.sample(), 1.0, self.time == 5, False, {}


gymnasium.register("AnySpaces-v0", AnySpaces)

SHAPES = st.lists(st.integers(1, 3), max_size=3).map(tuple)
BOXES = st.builds(
    lambda bounds, shape, dtype: spaces.Box(*bounds, shape, dtype),
    st.sampled_from([(0, 1), (0, 100)]),
    SHAPES,
    st.sampled_from([np.float32, np.float64, np.uint8, np.int64]),
) | st.builds(lambda shape: spaces.Box(-np.inf, np.inf, shape), SHAPES)
PLAIN = st.one_of(
    BOXES,
    st.builds(lambda n, start: spaces.Discrete(n, start=start), st.integers(1, 4), st.integers(-3, 3)),
    st.lists(st.integers(1, 4), min_size=1, max_size=3).map(spaces.MultiDiscrete),
    st.integers(1, 4).map(spaces.MultiBinary),
    st.just(spaces.MultiBinary([2, 2])),
    st.just(spaces.MultiDiscrete([[2, 3], [3, 2]])),
    st.just(spaces.Text(5)),
    st.just(spaces.Graph(spaces.Box(0, 1, (2,)), None)),
    st.just(spaces.Sequence(spaces.Discrete(2))),
)
ANY_SPACE = st.recursive(
    PLAIN,
    lambda inner: (
        st.lists(inner, min_size=1, max_size=2).map(spaces.Tuple)
        | st.dictionaries(st.sampled_from(["a", "b", "c.d"]), inner, min_size=1, max_size=2).map(spaces.Dict)
    ),
    max_leaves=3,
)


@pytest.mark.parametrize("how", [few(3), every(100)])
def test_any_spaces_train_or_are_refused(how: settings) -> None:
    how(
        given(observed=ANY_SPACE, acted=ANY_SPACE, agent=st.sampled_from(sorted(AGENTS)))(
            _any_spaces_train_or_are_refused
        )
    )()


def _any_spaces_train_or_are_refused(observed: spaces.Space[Any], acted: spaces.Space[Any], agent: str) -> None:
    AnySpaces.shown = (observed, acted)
    task = TINY | AGENTS[agent] | {"agent": agent, "env": "gymnasium", "env.id": "AnySpaces-v0"}
    with elsewhere() as folder:
        code, _, err = command("train", *lines(task))
        if code == 2:
            assert err.count("\n") == 1
            assert "space" in err
            assert list(folder.iterdir()) == []
        else:
            assert code == 0, err
            assert json.loads(Path("run/result.json").read_text())["status"] == "done"


# -- damaged folders ---------------------------------------------------------------------

DATA = st.recursive(
    st.none() | st.booleans() | st.integers(-(10**20), 10**20) | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=6,
)


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("trained")
    with chdir(folder):
        made = (
            TINY
            | AGENTS["ppo"]
            | {"diagnostics": "light", "network.hidden": "[4]", "env.normalize_observation": "true"}
        )
        assert command("train", *lines(made))[0] == 0
    return folder / "run"


def damage(run: Path, draw: st.DrawFn) -> None:
    """One file of the run is not what it was."""
    file = draw(st.sampled_from(sorted(path for path in run.rglob("*") if path.is_file())))
    content = file.read_bytes()
    where = draw(st.integers(0, max(len(content) - 1, 0)))
    match draw(st.sampled_from(["cut", "flip", "noise", "folder", "link", "gone", "data", "field"])):
        case "cut":
            file.write_bytes(content[:where])
        case "flip" if content:
            file.write_bytes(
                content[:where] + bytes([content[where] ^ draw(st.integers(1, 255))]) + content[where + 1 :]
            )
        case "noise":
            file.write_bytes(draw(st.binary(max_size=64)))
        case "folder":
            file.unlink()
            file.mkdir()
        case "link":
            file.unlink()
            file.symlink_to(draw(st.sampled_from(["/dev/null", "nowhere", file.name, "/etc/passwd"])))
        case "gone":
            file.unlink()
        case "data":
            file.write_text(json.dumps(draw(DATA)))
        case "field" if file.suffix in (".json", ".yaml"):
            whole = yaml.safe_load(content)
            inner = whole
            while True:
                key = draw(st.sampled_from(sorted(inner)))
                if not (isinstance(inner[key], dict) and inner[key]) or draw(st.booleans()):
                    break
                inner = inner[key]
            inner[key] = draw(DATA)
            file.write_text(json.dumps(whole) if file.suffix == ".json" else yaml.safe_dump(whole))


COMMANDS = {
    "play": ["play", "run", "--video", "it.mp4"],
    "inspect": ["inspect", "run"],
    "compare": ["compare", "run"],
    "resume": ["train", *lines(TINY | AGENTS["ppo"] | {"network.hidden": "[4]"})],
}


@pytest.mark.few(2)
@pytest.mark.parametrize("name", COMMANDS)
@pytest.mark.parametrize("how", [few(2), every(50)])
def test_a_damaged_folder_is_said_to_be_one(name: str, how: settings, trained: Path) -> None:
    @given(data=st.data())
    def holds(data: st.DataObject) -> None:
        with elsewhere():
            shutil.copytree(trained, "run")
            damage(Path("run"), data.draw)
            code, _, err = command(*COMMANDS[name])
            assert code in (0, 1, 2)
            assert code != 2 or err.count("\n") == 1

    how(holds)()
