"""Optimizers by name, parameter groups and initializers."""

from zoo.optim.initializers import initialize
from zoo.optim.lion import Lion
from zoo.optim.muon import MuonAdamW
from zoo.optim.newton import Newton
from zoo.optim.optimizers import build_optimizer, optimizer_class, parameter_groups
from zoo.optim.sam import SAM

__all__ = ["SAM", "Lion", "MuonAdamW", "Newton", "build_optimizer", "initialize", "optimizer_class", "parameter_groups"]
