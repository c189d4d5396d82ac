"""Stable-Baselines3's agents, whose networks learn by a credit-assignment rule of your choice."""

from agents.a2c import A2C
from agents.checkpoint import load_checkpoint, save_checkpoint
from agents.diagnosis import minibatches
from agents.learning import learn_together
from agents.members import Members
from agents.policy import RulePolicy
from agents.ppo import PPO
from agents.reinforce import REINFORCE
from agents.saving import load_model, save_model
from agents.spaces import adapt_spaces, flatten_observation, round_actions
from agents.stack import Stack

__all__ = [
    "A2C",
    "PPO",
    "REINFORCE",
    "Members",
    "RulePolicy",
    "Stack",
    "adapt_spaces",
    "flatten_observation",
    "learn_together",
    "load_checkpoint",
    "load_model",
    "minibatches",
    "round_actions",
    "save_checkpoint",
    "save_model",
]
