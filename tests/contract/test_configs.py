"""What a config says is what runs: every value resolved, every key known, every run under its own name."""

import json
import shlex
from collections.abc import Callable
from pathlib import Path

import pytest
import yaml
from omegaconf import OmegaConf
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from bio_rl.cli import main
from bio_rl.cli.configs import Job, compose, compose_jobs
from bio_rl.cli.train import check_builds, parse

Train = Callable[..., int]
LAKE = ("env=gymnasium", "env.id=FrozenLake-v1")


def jobs(line: str) -> list[Job]:
    return compose_jobs(parse(shlex.split(line)))


def refusal(line: str, capsys: pytest.CaptureFixture) -> str:
    """The one line by which the command refuses these arguments, having written nothing."""
    before = sorted(Path().rglob("*"))
    assert main(["train", *shlex.split(line)]) == 2
    out, err = capsys.readouterr()
    assert (out, err.count("\n")) == ("", 1)
    assert sorted(Path().rglob("*")) == before
    return err


def write(path: str, text: str) -> None:
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    Path(path).write_text(text)


# -- every value is resolved, and what is recorded is what ran ---------------------------------


def test_what_the_environment_gets_is_what_is_recorded_everywhere(train: Train) -> None:
    assert train(*LAKE, "+slippery=false", "+env.kwargs.is_slippery=${slippery}", "logging=tensorboard") == 0
    config = yaml.safe_load(Path("run/.hydra/config.yaml").read_text())
    assert config["env"]["kwargs"] == {"is_slippery": False}
    assert (config["env"]["name"], config["env"]["id"]) == ("FrozenLake-v1", "FrozenLake-v1")
    assert "${" not in Path("run/.hydra/config.yaml").read_text()
    events = EventAccumulator("run/tensorboard")
    events.Reload()
    text = str(events.Tensors("config/text_summary")[0].tensor_proto.string_val[0])
    assert "is_slippery: false" in text
    assert "${" not in text


@pytest.mark.few(3)
@pytest.mark.parametrize(
    ("override", "group", "key", "value"),
    [
        ("rule=kolen_pollack rule.decay=${agent.gamma}", "rule", "decay", 0.98),
        ("agent.gamma=${agent.gae_lambda}", "agent", "gamma", 0.8),
        ("optimizer.weight_decay=${optimizer.eps}", "optimizer", "weight_decay", 1e-5),
        ("network.hidden='[${agent.n_steps},${agent.n_steps}]'", "network", "hidden", [32, 32]),
        ("env.n_envs=${evaluation.episodes}", "env", "n_envs", 20),
        ("'env.wrapper={_target_: gymnasium.wrappers.TimeAwareObservation, flatten: ${overwrite}}'",
         "env", "wrapper", {"_target_": "gymnasium.wrappers.TimeAwareObservation", "flatten": False}),
        ("env.kwargs.sutton_barto_reward=${hydra:job.chdir}", "env", "kwargs", {"sutton_barto_reward": False}),
    ],
)  # fmt: skip
def test_every_group_leaves_resolved(override: str, group: str, key: str, value: object) -> None:
    (job,) = jobs(override)
    found = OmegaConf.to_container(job.config, resolve=False)
    assert isinstance(found, dict)
    assert found[group][key] == value
    assert "${" not in str(found)


def test_an_interpolation_to_the_runs_own_folder(train: Train) -> None:
    (job,) = jobs("hydra.run.dir=here '+env.kwargs.sutton_barto_reward=${hydra:runtime.output_dir}'")
    assert Path(job.config.env.kwargs.sutton_barto_reward).name == "here"


@pytest.mark.few(2)
@pytest.mark.parametrize("value", ["${nowhere}", "${env.nowhere}", "${no_resolver:1}", "${rule.gain}", "${seed"])
def test_an_interpolation_that_cannot_be_resolved_is_one_line(value: str, capsys: pytest.CaptureFixture) -> None:
    assert "env.kwargs.gravity" in refusal(f"'env.kwargs.gravity={value}'", capsys)
    refusal("seed=${seed}", capsys)
    refusal("+a=${b} +b=${a}", capsys)


# -- settings that do nothing ----------------------------------------------------------------


@pytest.mark.few(8)
@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("+evaluation.determined=false", "evaluation (train.yaml) has no key 'determined'"),
        ("+evaluation.intervall=5", "did you mean 'interval'"),
        ("+env.foo=1", "env (env/cartpole.yaml) has no key 'foo'"),
        ("++env.foo=1", "env (env/cartpole.yaml) has no key 'foo'"),
        ("+logging.foo=1", "logging (logging/tensorboard.yaml) has no key 'foo' (it has"),
        ("+network.seed=3", "network (network/mlp.yaml) has no key 'seed'"),
        ("+new.key=1", "no setting or group 'new'"),
        ("+zzz=1", "no setting or group 'zzz', and no other setting refers to it"),
        ("+aaa=1 +zzz=${aaa}", "no setting or group"),
        ("+agent.seed=3", "agent.seed: it has no effect there; set seed"),
        ("+agent.rule=readout", "agent.rule: it has no effect there; set rule"),
        ("agent.hidden=[8]", "agent.hidden: it has no effect there; set network.hidden"),
        ("agent.learning_rate=1", "agent.learning_rate: it has no effect there; set optimizer.learning_rate"),
        ("agent.stats_windw_size=3", "agent (agent/ppo.yaml) has no key 'stats_windw_size'; did you mean 'stats_win"),
        ("rule=burst rule.nugde=1", "rule (rule/burst.yaml) has no key 'nugde'; did you mean 'nudge'"),
        ("+rule.anything=1", "rule (rule/backprop.yaml) has no key 'anything'"),
        ("critic_rule=burst +critic_rule.nugde=1", "critic_rule (rule/burst.yaml) has no key 'nugde'; did you mean"),
        ("optimizer.lr=1", "set optimizer.learning_rate"),
        ("+optimizer.amsgrd=true", "optimizer (optimizer/adam.yaml) has no key 'amsgrd'; did you mean 'amsgrad'"),
        ("env.kwargs.gravity=5", "env.kwargs (env/cartpole.yaml) has no key 'gravity'"),
        ("env=gymnasium env.id=FrozenLake-v1 env.kwargs.is_slipery=false", "did you mean 'is_slippery'"),
        ("env.kwargs.max_episode_steps=5", "set env.max_episode_steps"),
        ("'env.wrapper={_target_: gymnasium.wrappers.TimeLimit, max_steps: 3}'", "did you mean 'max_episode_steps'"),
        (
            "callbacks=max_episodes callbacks.stop.max_episode=3",
            "callbacks/max_episodes.yaml) has no key 'max_episode'",
        ),
        ("agent={}", "agent={} changes nothing"),
        ("rule={}", "rule={} changes nothing"),
        ("~evaluation.interval", "evaluation.interval is missing"),
        ("~env.timesteps", "env.timesteps is missing"),
        ("~optimizer.learning_rate", "optimizer.learning_rate is missing"),
        ("seed=1 seed=2", "seed=1 seed=2: give one of them"),
        ("env.kwargs.a=1 ++env.kwargs.a=2", "give one of them"),
        ("overwrite=${seed}", "overwrite must be true or false"),
        ("-m seed=range(0)", "this sweep holds no run"),
    ],
)
def test_a_setting_without_effect_is_refused(line: str, expected: str, capsys: pytest.CaptureFixture) -> None:
    err = refusal(line, capsys)
    assert expected in err
    assert "=..." not in err, "no remedy that would do nothing either"


def test_a_key_of_ones_own_serves_those_that_refer_to_it() -> None:
    (job,) = jobs("+width=8 +sizes.actor=16 'network.hidden=[${width},${sizes.actor}]' +where=mine study=${where}")
    assert job.config.network.hidden == [8, 16]
    assert job.folder.parts[:2] == ("runs", "mine")
    jobs("+root=elsewhere 'hydra.run.dir=${root}/x'")


@pytest.mark.few(4)
@pytest.mark.parametrize(
    "line",
    [
        "agent.stats_window_size=50",
        "+agent.stats_window_size=50",
        "optimizer.amsgrad=true",
        "env=gymnasium env.id=FrozenLake-v1 env.kwargs.is_slippery=false",
        "env=gymnasium env.id=FrozenLake-v1 'env.kwargs={is_slippery: false}'",
        "env=gymnasium env.id=FrozenLake-v1 +env.kwargs.is_slippery=false",
        "env.kwargs.sutton_barto_reward=true",
        "env.wrapper._target_=gymnasium.wrappers.TimeAwareObservation env.wrapper._partial_=true",
        "'env.wrapper={_target_: gymnasium.wrappers.TimeAwareObservation, _partial_: true}'",
        "rule=gated rule.rule=burst rule.settings.nudge=0.2",
        "rule=gated rule.rule=burst 'rule.settings={nudge: 0.2}'",
        "agent=reinforce agent.stats_window_size=3",
        "-m env.kwargs.sutton_barto_reward=true,false",
    ],
)
def test_an_argument_needs_no_plus(line: str) -> None:
    check_builds(jobs(line))


def test_hydra_gets_the_same_run_with_and_without_plus(train: Train) -> None:
    assert train(*LAKE, "env.kwargs.is_slippery=false") == 0
    without = Path("run/evaluations.csv").read_text()
    assert train(*LAKE, "+env.kwargs.is_slippery=false", "hydra.run.dir=plus") == 0
    assert Path("plus/evaluations.csv").read_text() == without
    plain, plus = (jobs(f"env=gymnasium env.id=FrozenLake-v1 {sign}env.kwargs.is_slippery=false") for sign in ("", "+"))
    assert plain[0].folder == plus[0].folder


OWN_FILES = {
    "conf/experiment/null_seed.yaml": "# @package _global_\nseed: null\n",
    "conf/experiment/other_id.yaml": "# @package _global_\nenv: {id: Acrobot-v1}\n",
    "conf/experiment/typo.yaml": "# @package _global_\nagent: {gama: 0.9}\n",
    "conf/experiment/own_key.yaml": "# @package _global_\nwidth: 8\nnetwork: {hidden: ['${width}']}\n",
    "conf/env/incomplete.yaml": "name: incomplete\nid: CartPole-v1\n",
    "conf/env/wordy.yaml": "defaults: [cartpole]\nname: wordy\ncolour: red\n",
    "conf/env/short.yaml": "defaults: [cartpole]\nname: short\nmax_episode_steps: 20\n",
    "conf/env/thief.yaml": "defaults: [gymnasium]\nname: cartpole\nid: FrozenLake-v1\n",
}


@pytest.mark.few(2)
@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("experiment=null_seed", "seed=null: seed must be a whole number, as in seed=0"),
        ("experiment=other_id", "write env=gymnasium env.id=Acrobot-v1"),
        ("experiment=typo", "agent.gama: agent (agent/ppo.yaml) has no key 'gama'; did you mean 'gamma'"),
        ("env=incomplete", "is missing"),
        ("env=wordy", "env (env/wordy.yaml) has no key 'colour'"),
        ("env=thief", "the name of another task"),
    ],
)
def test_files_of_ones_own_are_held_to_the_same(line: str, expected: str, capsys: pytest.CaptureFixture) -> None:
    for path, text in OWN_FILES.items():
        write(path, text)
    assert expected in refusal(f"--config-dir conf {line}", capsys)


def test_files_of_ones_own_that_are_right() -> None:
    for path, text in OWN_FILES.items():
        write(path, text)
    (job,) = jobs("--config-dir conf experiment=own_key env=short")
    assert (job.config.network.hidden, job.config.env.max_episode_steps) == ([8], 20)


@pytest.mark.few(1)
@pytest.mark.parametrize("name", ["env/cartpole.yaml", "rule/burst.yaml", "tuned/cartpole/ppo.yaml", "train.yaml"])
def test_a_file_with_the_name_of_one_of_ours_is_refused(name: str, capsys: pytest.CaptureFixture) -> None:
    write(f"conf/{name}", "{}")
    assert f"conf/{name} has the name of bio-rl's own {name}" in refusal("--config-dir conf", capsys)
    assert f"bio-rl's own {name}" in refusal(f"hydra.searchpath=[file://{Path('conf').resolve()}]", capsys)


# -- a run is filed under its own task's name --------------------------------------------------


@pytest.mark.few(3)
@pytest.mark.parametrize("override", ["env.id=FrozenLake-v1", "++env.id=FrozenLake-v1", "env={id:FrozenLake-v1}"])
@pytest.mark.parametrize("task", ["", "env=acrobot ", "env.name=frozen_lake "])
def test_a_named_task_keeps_its_id(task: str, override: str, capsys: pytest.CaptureFixture) -> None:
    task = "" if override.startswith("env=") and task.startswith("env=") else task
    assert "write env=gymnasium env.id=FrozenLake-v1" in refusal(task + override, capsys)


def test_the_remedy_of_a_changed_id_works() -> None:
    (job,) = jobs("env=gymnasium env.id=FrozenLake-v1")
    assert job.folder == Path("runs/default/FrozenLake-v1/ppo/backprop/seed=0")
    assert job.config.optimizer.learning_rate == 3e-4, "Stable-Baselines3's, not those tuned for another task"
    (same,) = jobs("env.id=CartPole-v1")
    assert same.folder == Path("runs/default/cartpole/ppo/backprop/seed=0")


@pytest.mark.few(2)
@pytest.mark.parametrize(
    ("choice", "remedy"),
    [
        ("FrozenLake-v1", "env=gymnasium env.id=FrozenLake-v1"),
        ("CartPole-v1", "env=cartpole"),
        ("LunarLander-v3", "env=lunar_lander"),
        ("ALE/Pong-v5", "env=gymnasium env.id=ALE/Pong-v5"),
        ("cartpol", "did you mean 'cartpole'"),
    ],
)
def test_an_id_in_the_place_of_a_task(choice: str, remedy: str, capsys: pytest.CaptureFixture) -> None:
    assert remedy in refusal(f"env={choice}", capsys)


# -- odd names and numbers -----------------------------------------------------------------


@pytest.mark.few(8)
@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("study=/proc/x", "a folder below runs/"),
        ("study=a/../../x", "a folder below runs/"),
        ("study=", "a folder below runs/"),
        ("env.name=../../x", "a folder below runs/"),
        ("env.name=lunar_lander", "the name of another task"),
        (f"study={'x' * 300}", "too long: at most 255 bytes"),
        (f"env.name={'x' * 300}", "too long: at most 255 bytes"),
        (f"hydra.run.dir={'x/' * 3000}", "too long: at most 4000 bytes"),
        (f"seed={'9' * 5000}", "cannot be read: Exceeds the limit"),
        (f"seed={'9' * 4000}", "too long"),
        ("seed=99999999999999999999", "seed must be a whole number of at least 0 and at most"),
        (f"network.hidden={'[' * 1000}{']' * 1000}", "cannot be read"),
        ("++env.name=[a]", "env.name must be text"),
        ("hydra.job.env_copy=[NOPE]", "no environment variable 'NOPE'"),
        ("hydra.sweeper.params={seed:[1,2]}", "cannot compose"),
        ("-m seed=range(0,3,0)", "must not be zero"),
        ("--run -m", "give one of --run, --multirun"),
        ("--experimental-rerun x.pickle", "whatever the file says"),
        ("torch_threads=1000000", "torch_threads must be a whole number of at least 1 and at most"),
        ("torch_threads=2147483648", "torch_threads must be a whole number of at least 1 and at most"),
        ("env.n_envs=1000000000000", "env.n_envs must be a whole number"),
        ("evaluation.episodes=1000000000000", "evaluation.episodes must be a whole number"),
        ("agent.n_steps=1000000000000", "agent.n_steps must be a whole number"),
    ],
)
def test_odd_values_are_one_line(line: str, expected: str, capsys: pytest.CaptureFixture) -> None:
    err = refusal(line, capsys)
    assert expected in err
    assert len(err) < 600


# -- what Hydra makes of it ------------------------------------------------------------------


@pytest.mark.parametrize(
    "line",
    [
        "rule=burst rule.nudge=0.2 critic_rule=backprop",
        "agent=a2c env=acrobot seed=3 ~agent.gamma",
        "env=gymnasium env.id=FrozenLake-v1 env.kwargs.is_slippery=false hydra.run.dir=x/${seed}",
        "experiment=lunar_lander seed=0 rule=readout hydra.mode=RUN",
    ],
)
def test_jobs_are_composed_as_hydra_composes_them(line: str) -> None:
    from hydra import compose as hydra_compose
    from hydra import initialize_config_dir

    from bio_rl.cli.loader import config_folder

    args = parse(shlex.split(line))
    (job,) = compose_jobs(args)
    with initialize_config_dir(str(config_folder()), version_base="1.3"):
        theirs = hydra_compose("train", args.overrides, return_hydra_config=True)
        assert job.folder == Path(theirs.hydra.run.dir)
        assert job.choices == theirs.hydra.runtime.choices
        del theirs._content["hydra"]
        assert OmegaConf.to_container(job.config) == OmegaConf.to_container(theirs, resolve=True)


@pytest.mark.parametrize(
    "given",
    [
        "rule=backprop seed=4,5",
        "rule=backprop seed=range(4,6)",
        "rule=backprop seed=4 env.timesteps=64,128",
        "rule=readout,burst seed=0",
    ],
)
def test_what_is_given_takes_the_place_of_an_experiments_own_list(given: str) -> None:
    jobs = compose_jobs(parse(["experiment=lunar_lander", *given.split()]))
    assert len({job.folder for job in jobs}) == len(jobs) == 2


def test_hydras_own_names_of_a_sweeps_folders(train: Train) -> None:
    assert train("-m", "seed=0,1", "hydra.sweep.dir=swept", "hydra.sweep.subdir=${hydra.job.num}") == 0
    assert [json.loads(Path(f"swept/{n}/result.json").read_text())["seed"] for n in (0, 1)] == [0, 1]


def test_the_working_directory_may_be_the_runs(train: Train) -> None:
    assert train("hydra.job.chdir=true") == 0
    assert Path("run/result.json").exists()


def test_what_differs_in_the_seed_only_is_built_once(monkeypatch: pytest.MonkeyPatch) -> None:
    from bio_rl.experiment import run

    built: list[str] = []
    monkeypatch.setattr(run, "check", lambda config: built.append(config.rule._target_))
    check_builds(jobs("-m rule=backprop,readout seed=range(0,10)"))
    assert built == ["bio_rl.rules.Backprop", "bio_rl.rules.Readout"]
    check_builds(jobs("-m seed=0,1 'env.kwargs={sutton_barto_reward: ${seed}}'"))
    assert len(built) == 4


def test_a_config_for_a_run_from_python() -> None:
    from bio_rl.experiment.environments import training_envs
    from bio_rl.experiment.run import build_agent

    config = compose("env=cartpole", "agent=ppo", "rule=feedback_alignment", "critic_rule=readout")
    agent = build_agent(config, training_envs(config.env, config.agent.gamma))
    assert (agent.n_steps, agent.n_epochs, agent.gamma) == (32, 20, 0.98), "those that were tuned for CartPole"
    assert type(agent.policy.networks["critic"].rule).__name__ == "Readout"
