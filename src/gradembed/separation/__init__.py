"""Which hidden units serve which task, from gradients; and what is lost when units are taken out."""

from __future__ import annotations

from gradembed.separation._ablation import ablated
from gradembed.separation._modules import TaskModules, task_modules

__all__ = ["TaskModules", "ablated", "task_modules"]
