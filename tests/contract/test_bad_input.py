"""A user's mistake: one line that names it and what would be right, exit code 2, nothing written."""

import sys
from pathlib import Path
from types import ModuleType

import gymnasium
import pytest

from bio_rl.cli import main


@pytest.mark.few(27)
@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        ("trian", "did you mean 'train'"),
        ("train --multrun", "did you mean '--multirun'"),
        ("train seed", "key=value"),
        ("train =1", "'=1' is not of the form key=value: it has no key"),
        ("train rul=backprop", "did you mean 'rule'"),
        ("train search=default", "no setting or group 'search'"),
        ("train +tuned.gamma=1", "tuned has no settings of its own: tuned=NAME chooses what others are set to"),
        ("train tuned.gamma=1", "tuned has no settings of its own"),
        ("train +evaluation.deterministic=false", "is there already; write evaluation.deterministic=false"),
        ("train +seed=1", "+seed=1: seed is there already; write seed=1"),
        ("train rule=backprp", "did you mean 'backprop'"),
        ("train env=3", "env has no choice '3'"),
        ("train rule=null", "rule has no choice 'null'"),
        ("train critic_rule=null", "rule has no choice 'null'"),
        ("train ~seed", "~seed: a run needs seed"),
        ("train ~logging", "~logging: a run needs logging"),
        ("train rule=[backprop,readout]", "rule has no choice"),
        ("train tuned=cartpole/poo", "tuned has no choice 'cartpole/poo'; did you mean 'cartpole/ppo'"),
        ("train tuned=nowhere", "(tuned/ has acrobot/a2c, acrobot/ppo"),
        ("train tuned=${env}/pppo", "there is no tuned/cartpole/pppo.yaml; did you mean 'cartpole/ppo'"),
        ("train -m env=digits,cartpole tuned=${env}/a2c", "there is no tuned/digits/a2c.yaml"),
        ("train critic_rule=readuot", "critic_rule=readuot: rule has no choice 'readuot'; did you mean 'readout'"),
        ("train -m rule=backprop,readot", "did you mean 'readout'"),
        ("train rule=backprop,readout", "add -m"),
        ("train -m seed=0,0", "would share the folder"),
        (
            "train optimizer.learnin_rate=1",
            "optimizer/adam.yaml) has no key 'learnin_rate'; did you mean 'learning_rate'",
        ),
        ("train agent=a2c agent.n_step=1", "agent/a2c.yaml) has no key 'n_step'; did you mean 'n_steps'"),
        ("train rule=readout rule.hiden_bias=1", "did you mean 'hidden_bias'"),
        ("train optimizer.learning_rate=fast", "must be a number"),
        ("train optimizer.learning_rate=lin_x", "must be a number above 0"),
        ("train optimizer.learning_rate=0", "must be a number above 0"),
        ("train optimizer.learning_rate=inf", "must be a number above 0"),
        (
            "train optimizer.critic_learning_rate=lin_0.1",
            "critic_learning_rate must be a number above 0; it follows the schedule of optimizer.learning_rate",
        ),
        ("train agent.target_kl=lin_0.1", "agent.target_kl must be a number above 0; schedules are for"),
        ("train network.log_std_init=100", "network.log_std_init must be a number of at least -20 and at most 20"),
        ("train optimizer.betas=[0.9]", "optimizer.betas must be two numbers"),
        ("train evaluation=null", "evaluation must be a mapping"),
        ("train env.kwargs=null", "env.kwargs must be a mapping"),
        ("train seed=null", "seed=null: seed must be a whole number"),
        ("train device=banana", "device=banana: torch has no such device here"),
        ("train rule=feedback_alignment rule.feedback_scale=inf", "feedback_scale must be a number from"),
        ("train rule=gated rule.settings=3", "settings must be a mapping"),
        ("train env.timesteps=1e5", "must be a whole number"),
        ("train env.n_envs=0", "env.n_envs must be a whole number of at least 1"),
        ("train agent.gamma=1.5", "at most 1"),
        ("train evaluation.checkpoints=some", "must be one of best_and_last, all, none"),
        ("train evaluation.deterministic=1", "true or false"),
        ("train overwrite=maybe", "true or false"),
        ("train network.hidden=64", "a list of whole numbers"),
        ("train network.hidden=[0]", "hidden must hold"),
        ("train network=separate network.hidden.critic=[0]", "hidden must hold"),
        ("train network=separate network.hidden.critic=8", "hidden must be a list of whole numbers"),
        ("train network.activation=tahn", "unknown activation 'tahn'"),
        ("train rule=sign_symmetry rule.magnitudes=all", "magnitudes must be one of"),
        ("train rule=readout rule.hidden_bias=-1", "hidden_bias must be a number from 0 to"),
        ("train rule=node_perturbation rule.draws=0", "draws must be a whole number from"),
        ("train rule=weight_perturbation rule.draws=-1", "draws must be a whole number from"),
        ("train rule=forward_gradient rule.draws=2.5", "rule.draws must be a whole number"),
        ("train rule=node_perturbation rule.noise=0", "noise must be a number from"),
        ("train rule=weight_perturbation rule.noise=-0.1", "noise must be a number from"),
        ("train rule=node_perturbation rule.noise=nan", "noise must be a number from"),
        ("train rule=pepita rule.feedback=mirror", "feedback must be one of random, mirrored, sampled"),
        ("train rule=burst rule.baseline=0.6", "baseline must be a number from"),
        ("train rule=burst network.activation=identity", "burst: layer 1 is 'identity'"),
        ("train rule=segregated_dendrites rule.slope=0", "slope must be a number from"),
        ("train rule=dendritic_microcircuit rule.somatic=1.0", "somatic must be a number from"),
        ("train rule=gated rule.rule=gated", "a gate around a gate is a gate"),
        ("train rule=gated rule.rule=bursts", "unknown rule 'bursts'; known: backprop, burst"),
        ("train rule=gated rule.gate=suprise", "gate must be one of surprise"),
        ("train rule=gated rule.window=3", "window must be at most the period, 2"),
        ("train rule=gated +rule.settings.draw=8", "does not take"),
        ("train rule=gated rule.rule=burst +rule.settings.nudge=-1", "nudge must be a number from"),
        ("train rule=gated rule.rule=burst +rule.settings.nudge=small", "Burst: nudge must be a number from"),
        ("train critic_rule=gated critic_rule.rule=bursts", "unknown rule 'bursts'"),
        ("train rule=predictive_coding rule.steps=0", "steps must be a whole number from"),
        ("train rule=predictive_coding rule.steps=2.5", "rule.steps must be a whole number, as in rule.steps=8"),
        ("train rule=predictive_coding rule.nudge=0", "nudge must be a number from"),
        ("train rule=predictive_coding rule.nudge=small", "rule.nudge must be a number, as in rule.nudge=0.003"),
        ("train rule=predictive_coding rule.variant=inferrence", "variant must be one of inference, fixed_prediction"),
        (
            "train rule=predictive_coding rule.variant=fixed_prediction network.hidden=[4,4,4,4,4,4,4,4]",
            "a network of 9 layers needs steps of at least 9, not 8",
        ),
        ("train rule=equilibrium_propagation rule.steps=0", "steps must be a whole number from"),
        ("train rule=equilibrium_propagation rule.nudge=-1", "nudge must be a number from"),
        ("train rule=equilibrium_propagation rule.kappa=1", "kappa must be a number from"),
        ("train rule=target_propagation rule.nudge=0", "nudge must be a number from"),
        ("train rule=target_propagation rule.noise=0", "noise must be a number from"),
        ("train rule=deep_feedback_control rule.steps=0", "steps must be a whole number from"),
        ("train rule=deep_feedback_control rule.nudge=0", "nudge must be a number from"),
        ("train rule=deep_feedback_control rule.alpha=nan", "alpha must be a number from 0 to"),
        ("train rule=deep_feedback_control network.activation=sine", "unknown activation 'sine'; known: identity"),
        ("train network.shared_trunk=true critic_rule=readout", "critic_rule"),
        ("train env=gymnasium", "env.id has no value"),
        ("train env=gymnasium env.id=CartPol-v1", "Did you mean: `CartPole`"),
        ("train env=gymnasium env.id=no_such_module:Task-v0", "no_such_module"),
        ("train --config-dir nowhere", "no folder 'nowhere'"),
        ("train --config-dir", "--config-dir/-cd: expected one argument"),
        ("train --config-path /", "--config-dir adds yours"),
        ("train --resolve", "--cfg or --help"),
        ("train --cfg everything", "invalid choice: 'everything'"),
        ("train hydra.run.dir=/dev/null/run", "cannot be written"),
        ("train hydra.run.dirr=x", "hydra.run has no key 'dirr'; did you mean 'dir'"),
        ("train -m hydra.swep.dir=x", "hydra has no key 'swep'; did you mean 'sweep'"),
        ("train hydra/launchr=basic", "did you mean 'hydra/launcher'"),
        ("train hydra/launcher=basci", "did you mean 'basic'"),
        ("train -m hydra/launcher=submitit_slurm seed=0,1", 'pip install "bio-rl[submitit]" brings it'),
        ("train hydra.sweeper.params={seed:1}", "Hydra cannot compose hydra.sweeper.params={seed:1}: "),
        ("train hydra=x", "Hydra cannot compose hydra=x: "),
        ("train hydra.job.chdir=maybe", "not a valid bool"),
        ("train rule=kolen_pollack rule.decay=1e-320", "rule.decay=1e-320: networks compute in single precision"),
        ("train optimizer.learning_rate=1e308", "networks compute in single precision"),
        (f"train network.hidden=[{','.join(['8'] * 101)}]", "network.hidden has 101 layers; it may have 100"),
        ("train network.hidden=[1000000000000]", "network.hidden=[1000000000000] takes at least 44,703 GiB of memory"),
        ("train network=separate network.hidden.critic=[1000000,1000000]", "takes at least 7,451 GiB of memory, and"),
        ("train agent.n_steps=10000000 env.n_envs=100000", "agent.n_steps=10000000 takes at least 26,077 GiB of"),
        (
            "train rule=weight_perturbation rule.draws=1000000 agent.n_steps=1000000 agent.batch_size=1000000",
            "rule.draws=1000000 takes at least 476,837 GiB",
        ),
        (f"train rule={'r' * 3000}", "rrr"),
        ("play nowhere", "no folder 'nowhere'"),
        ("play", "required: run_folder"),
        ("play nowhere --seed -1", "'-1' is not a whole number of at least 0"),
        ("play nowhere --episodes 0", "'0' is not a whole number of at least 1"),
        ("rules --jsno", "no option --jsno; did you mean '--json'?"),
        ("play runs/a runs/b", "runs/b is one too many"),
        ("compare runs --cvs=runs.csv", "no option --cvs; did you mean '--csv'?"),
    ],
)
def test_one_line_exit_code_2_nothing_written(
    arguments: str, expected: str, capsys: pytest.CaptureFixture, tmp_path: Path
) -> None:
    assert main(arguments.split()) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert expected in err
    assert err.startswith("bio-rl")
    assert err.count("\n") == 1
    assert list(tmp_path.iterdir()) == []


MINE = {
    "mine.py": (
        "import gymnasium\n"
        "class NoRule: pass\n"
        "class Talks(gymnasium.Env):\n"
        "    observation_space, action_space = gymnasium.spaces.Text(5), gymnasium.spaces.Discrete(2)\n"
        "gymnasium.register('Talks-v0', Talks)\n"
    ),
    "broken.py": "import nowhere_to_be_found\n",
    "forgetful.py": (
        "from bio_rl.rules import Backprop\n"
        "class Forgetful(Backprop):\n"
        "    def __init__(self, scale=1.0): super().__init__()\n"
    ),
    "conf/rule/unreadable.yaml": "_target_: mine.Rule\n  scale: 1\n",
    "conf/rule/not_utf8.yaml": "# \udce9\n",
    "conf/rule/broken.yaml": "_target_: broken.Rule\n",
    "conf/rule/no_rule.yaml": "_target_: mine.NoRule\n",
    "conf/rule/no_target.yaml": "scale: 1\n",
    "conf/rule/forgetful.yaml": "_target_: forgetful.Forgetful\nscale: 1.0\n",
    "conf/experiment/no_group.yaml": "# @package _global_\noptimiser: {learning_rate: 1}\n",
    "conf/experiment/no_key.yaml": "# @package _global_\nenv: {timestep: 10}\n",
}
"""A user's own files, each with a mistake, by their path."""


@pytest.mark.few(4)
@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        ("rule=unreadable", 'cannot be read: mapping values are not allowed here in "'),
        ("rule=not_utf8", "cannot be read: 'utf-8' codec"),
        ("rule=broken", "Error loading 'broken.Rule': No module named 'nowhere_to_be_found'"),
        ("rule=no_rule", "is not a rule"),
        ("rule=no_target", "{'scale': 1} is not a rule"),
        ("rule=forgetful", "Forgetful cannot be saved: it must keep its setting 'scale'"),
        ("experiment=no_group", "experiment=no_group: no setting or group 'optimiser'; did you mean 'optimizer'"),
        ("experiment=no_key", "(env/cartpole.yaml) has no key 'timestep'; did you mean 'timesteps'"),
        ("env=gymnasium env.id=mine:Talks-v0", "observation space Text"),
    ],
)
def test_a_mistake_in_files_of_ones_own(
    arguments: str, expected: str, tmp_path: Path, capsys: pytest.CaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, text in MINE.items():
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, errors="surrogateescape")
    monkeypatch.syspath_prepend(str(tmp_path))
    assert main(["train", "--config-dir", "conf", *arguments.split()]) == 2
    err = capsys.readouterr().err
    assert expected in err
    assert err.count("\n") == 1
    assert not Path("runs").exists()


def test_a_missing_simulator_names_the_pip_line(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture) -> None:
    def without_box2d(*_: object, **__: object) -> gymnasium.Env:
        raise gymnasium.error.DependencyNotInstalled("Box2D is not installed")

    monkeypatch.setattr(gymnasium, "make", without_box2d)
    assert main(["train", "env=lunar_lander"]) == 2
    assert 'pip install "bio-rl[box2d]"' in capsys.readouterr().err


def test_a_package_agents_that_is_not_ours(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture) -> None:
    other = ModuleType("agents")
    other.__file__ = "/elsewhere/agents/__init__.py"
    monkeypatch.setitem(sys.modules, "agents", other)
    assert main(["train"]) == 2
    assert "/elsewhere/agents" in (err := capsys.readouterr().err)
    assert "pip" in err


def test_a_folder_without_permission(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    Path("runs").write_text("a file, not a folder")
    assert main(["train"]) == 2
    assert "cannot be written" in capsys.readouterr().err
