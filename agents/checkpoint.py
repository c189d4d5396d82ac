"""An agent in the middle of its training, in one file: from there it goes on as if it had never stopped.

The file holds numbers and names, no code. Beside what ``save_model`` keeps there are the optimizer's state, every
generator, the environments in the midst of their episodes and what is known of past ones.
"""

import random
from pathlib import Path
from typing import Any

import numpy as np
import torch
from stable_baselines3.common.vec_env import SubprocVecEnv, VecEnv, VecEnvWrapper

from agents.base import RuleAgent
from bio_rl.snapshot import Tree, put, read, take, write

LOGGED = ("name_to_value", "name_to_count", "name_to_excluded")
"""What a logger has been told since it last wrote."""


def save_checkpoint(agent: RuleAgent, file: str | Path) -> None:
    """Save all that the agent's training depends on, between two of its updates.

    Args:
        agent: one that has learnt, or learns now: see ``after_update`` of ``learn_together``.
        file: replaced if it is there.
    """
    Path(file).write_bytes(write(agent_state(agent)))


def load_checkpoint(agent: RuleAgent, file: str | Path) -> None:
    """Bring an agent to where another one was, which goes on with ``learn(..., reset_num_timesteps=False)``.

    ``learn`` counts its time steps from there. Schedules of learning rates and clip ranges fall from the training's
    start to its new end: with constant ones, to learn on is to have learnt longer.

    Args:
        agent: made as the other one was, with environments made alike, by the same versions. They are brought to where
            the others were in their episodes as far as their state is plain numbers, which a simulator's may not be.
        file: which ``save_checkpoint`` wrote.

    Raises:
        bio_rl.snapshot.Damaged: the file does not hold a whole checkpoint.
        ValueError: the agent is not like the one that was saved.
    """
    put_agent_state(agent, read(Path(file)))


def agent_state(agent: RuleAgent) -> Tree:
    """The agent's state as plain data, its environments included."""
    assert agent.env is not None
    optimizer = agent.policy.optimizer
    state = optimizer.state_dict()["state"]
    return {
        "kind": "checkpoint",
        "agent": type(agent).__name__,
        "shapes": _shapes(agent),
        "attributes": take(agent, without=_elsewhere(agent)),
        "optimizer": take(state),
        "logged": take({name: dict(getattr(agent.logger, name)) for name in LOGGED} if _has_logger(agent) else {}),
        "environments": take_environments(agent.env),
        "global": take(_global_generators()),
    }


def put_agent_state(agent: RuleAgent, tree: Tree, replay: bool | None = True) -> None:
    """Bring an agent to a state that ``agent_state`` told.

    Args:
        agent: made like the one whose state it is.
        tree: the state.
        replay: whether environments play their episode again to be where it was; ``None`` lets them begin a new one.

    Raises:
        ValueError: the agent is not like the one whose state it is.
        RuntimeError: an environment's, against its episode.
    """
    if not isinstance(tree, dict) or tree.get("kind") != "checkpoint":
        raise ValueError("this is no checkpoint of an agent")
    if (tree["agent"], tree["shapes"]) != (type(agent).__name__, _shapes(agent)):
        raise ValueError(f"the checkpoint is of another agent or of other networks than this {type(agent).__name__}'s")
    assert agent.env is not None
    put(agent, tree["attributes"])
    optimizer = agent.policy.optimizer
    optimizer.load_state_dict({**optimizer.state_dict(), "state": put(None, tree["optimizer"])})
    if _has_logger(agent):
        for name, values in put({}, tree["logged"]).items():
            getattr(agent.logger, name).update(values)
    put_environments(agent.env, tree["environments"], replay)
    if replay is None:
        agent._last_obs = None
    for generator, own in zip(_global_generators(), tree["global"]["values"], strict=False):
        put(generator, own)


def _elsewhere(agent: RuleAgent) -> list[Any]:
    """What of an agent is saved by itself, or filled anew by every rollout."""
    return [agent.env, agent.rollout_buffer, getattr(agent, "_logger", None), agent._others]


def _has_logger(agent: RuleAgent) -> bool:
    return hasattr(agent, "_logger")  # from the beginning of its first training


def _shapes(agent: RuleAgent) -> dict[str, list[int]]:
    return {name: list(parameter.shape) for name, parameter in agent.policy.named_parameters()}


def _global_generators() -> list[Any]:
    """Those from which environments of somebody's own may draw."""
    gpus = torch.cuda.default_generators if torch.cuda.is_initialized() else ()
    numpys: Any = np.random.mtrand._rand
    return [random._inst, numpys, torch.default_generator, *gpus]


# -- environments ------------------------------------------------------------------------


def take_environments(env: VecEnv) -> Tree:
    """The state of environments and what is wrapped around them, as plain data."""
    layers = []
    while isinstance(env, VecEnvWrapper):
        layers.append(take(env, without=[env.venv]))
        env = env.venv
    if isinstance(env, SubprocVecEnv):
        return {"layers": layers, "copies": env.env_method("snapshot")}
    copies = getattr(env, "envs", None)
    if copies and all(hasattr(copy, "snapshot") for copy in copies):
        return {"layers": [*layers, take(env, without=copies)], "copies": [copy.snapshot() for copy in copies]}
    return {"layers": [*layers, take(env)], "copies": None}


def put_environments(env: VecEnv, tree: Tree, replay: bool | None = True) -> None:
    """Bring environments to a state that ``take_environments`` told; ``replay`` as in ``put_agent_state``."""
    layers = list(tree["layers"])
    while isinstance(env, VecEnvWrapper):
        put(env, layers.pop(0))
        env = env.venv
    if layers:
        put(env, layers.pop(0))
    copies = tree["copies"] if replay is not None else None
    for index, copy in enumerate(copies or ()):
        env.env_method("restore", copy, replay, indices=index)
