"""Tab completion: what a shell is told of a line that somebody types."""

import subprocess
import sys

import pytest

from bio_rl.cli import COMMANDS, main


@pytest.mark.parametrize(
    ("line", "offered"),
    [
        ("bio-rl ", {"train", "compare"}),
        ("bio-rl tr", {"train"}),
        ("bio-rl train rule=feed", {"rule=feedback_alignment"}),
        ("/some/where/bio-rl train env=cartpole optim", {"optimizer=", "optimizer."}),
        ("bio-rl train rule=burst rule.nud", {"rule.nudge="}),
        ("bio-rl train -m rule=backprop,readout members=8 env.n_e", {"env.n_envs="}),
        ("bio-rl train --config-dir conf rule=m", {"rule=mine"}),
        ("bio-rl tune --trials 5 env=digit_s", {"env=digit_sum"}),
        ("bio-rl train --nonsense rule=feed", {"rule=feedback_alignment"}),
        ("bio-rl play rule=feed", set()),
        ("bio-rl train rule=(( env=", set()),
        ("bio-rl train --config-dir nowhere rule=feed", set()),
        ("bio-rl train --config-dir", set()),
        ("bio-rl", {"tune"}),
        ("", set(COMMANDS)),
    ],
)
def test_a_shell_is_told_how_a_line_goes_on(
    tmp_path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture, line: str, offered: set[str]
) -> None:
    (tmp_path / "conf/rule").mkdir(parents=True)
    (tmp_path / "conf/rule/mine.yaml").write_text("_target_: mine.Mine")
    monkeypatch.setenv("COMP_LINE", line)
    assert main(["-sc", "query=bash"]) == 0
    out, err = capsys.readouterr()
    assert err == ""
    assert set(out.split()) >= offered
    assert bool(out.split()) == bool(offered)


def test_bash_completes(tmp_path) -> None:
    typed = "bio-rl train rule=feed"
    program = tmp_path / "bio-rl"
    program.write_text(f'#!/bin/sh\nexec {sys.executable} -m bio_rl "$@"\n')
    program.chmod(0o755)
    script = f"""
        PATH={tmp_path}:$PATH
        eval "$({program} -sc install=bash | sed s/__main__.py/bio-rl/)"
        COMP_LINE="{typed}" COMP_WORDS=({typed}) COMP_CWORD=2 COMP_POINT={len(typed)}
        hydra_bash_completion
        echo "${{COMPREPLY[@]}}"
    """
    done = subprocess.run(["bash", "-c", script], capture_output=True, text=True, check=True)
    assert (done.stdout.strip(), done.stderr) == ("rule=feedback_alignment", "")


@pytest.mark.parametrize("asked", [[], ["install"], ["install=tcsh"], ["query=bash", "more=1"], ["rule=burst"]])
def test_anything_else_is_one_line(capsys: pytest.CaptureFixture, asked: list[str]) -> None:
    assert main(["train", "-sc", *asked]) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert err == "bio-rl train: -sc takes install=SHELL or uninstall=SHELL, of bash, zsh, fish\n"
