"""Folders that look as those of runs do, made without running anything."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

VERSIONS = {"bio-rl": "0.1.0", "torch": "2.9.0"}


def a_run(
    place: str | Path,
    seed: int = 0,
    final: float | None = 100.0,
    rule: str = "backprop",
    env: str = "cartpole",
    status: str = "done",
    overrides: Sequence[str] = (),
    curve: Sequence[tuple[int, float]] = (),
    angles: Mapping[int, Sequence[float]] | None = None,
    config: Mapping[str, Any] | None = None,
    **result: Any,
) -> Path:
    """The folder of a run below ``place``.

    Args:
        place: what the runs are in.
        seed, rule, env, status: of the run.
        final: its return at the end, after the last of ``curve``'s timesteps, or 1000.
        overrides: beside ``rule`` and ``seed``.
        curve: timesteps and returns of evaluations of two episodes.
        angles: of the actor's updates, by timesteps, of each layer.
        config: settings beside the usual ones.
        result: what result.json says beside the usual.
    """
    folder = Path(place, rule, *overrides, f"seed={seed}")
    (folder / ".hydra").mkdir(parents=True, exist_ok=True)
    timesteps = curve[-1][0] if curve else 1000
    said: dict[str, Any] = {
        "status": status,
        "agent": "ppo",
        "rule": rule,
        "critic_rule": rule,
        "env": env,
        "env_id": f"{env}-v1",
        "seed": seed,
        "timesteps": timesteps,
        "timesteps_requested": timesteps,
        "return_mean": final,
        "return_episodes": 2,
        "wall_seconds": 10.0,
        "members": 1,
        "cost": {"batch": 256, "actor": {"multiply_accumulates": 30.0}, "critic": {"multiply_accumulates": 20.0}},
        "versions": VERSIONS,
        "git_revision": "0" * 40,
        **result,
    }
    (folder / "result.json").write_text(json.dumps(said))
    settings = {"study": "default", "seed": seed, "env": {"name": env, "timesteps": timesteps}, **(config or {})}
    (folder / ".hydra/config.yaml").write_text(json.dumps(settings))  # which is YAML too
    (folder / ".hydra/overrides.yaml").write_text(json.dumps([f"rule={rule}", f"seed={seed}", *overrides]))
    if curve:
        rows = [f"{when},{seed},{episode},{value},9" for when, value in curve for episode in range(2)]
        (folder / "evaluations.csv").write_text("\n".join(["timesteps,seed,episode,return,length", *rows, ""]))
    if angles:
        rows = [
            f"{when},actor,{layer},update_angle,{angle}"
            for when, layers in angles.items()
            for layer, angle in enumerate(layers, start=1)
        ]
        (folder / "diagnostics.csv").write_text("\n".join(["timesteps,network,layer,name,value", *rows, ""]))
    return folder
