"""gradembed: look inside trained networks through their gradients.

Two questions, asked of a trained network: are the tasks that it learned separate inside it (`interference`), and
which of its units compute the same thing? Shapes are given in the same letters everywhere:

====== =======================================================================
letter meaning
====== =======================================================================
n      samples
u      units: outputs, hidden units, or directions in a layer
d      width of the layer that a gradient is taken with respect to
t      tasks (a task is one unit, or a block of output units)
k      dimensions of an embedding
e      networks that are trained together
====== =======================================================================

Layers are named "input" and as in ``model.named_modules()``; "output" is what the model returns.

Example:
    >>> import gradembed as ge
    >>> split = ge.datasets.load_iris()
    >>> run = ge.train(ge.MLP([4, 64, 64, 3], seed=0), split, ge.TrainConfig(epochs=20, progress=False))
    >>> result = ge.interference(run.model, split.x_test)
    >>> result
    Interference(3 units of 'output', layers ['input', 'hidden1', 'hidden2'], 30 samples)
    >>> bool(result.cosine["input"][0, 2] < 0)  # what speaks for the first species speaks against the third
    True
"""

from importlib import import_module
from importlib.metadata import version
from typing import TYPE_CHECKING, Any

from gradembed import datasets, metrics
from gradembed.cards import UnitCard, unit_card
from gradembed.embed import FieldDescriptor, GradientFieldEmbedder, RowEmbedder
from gradembed.fields import (
    GradientFields,
    estimated_fields,
    field_mask,
    gradient_fields,
    grid_points,
    sample_points,
    sobol_points,
)
from gradembed.gradients import Site, UnitGradients, unit_gradients
from gradembed.interference import Interference, interference
from gradembed.models import MLP, MLPEnsemble, untrained
from gradembed.modules import TaskModules, ablated, task_modules
from gradembed.monitor import InterferenceMonitor, SplitRecommendation, TrainingCourse, recommend_split, training_course
from gradembed.report import Atlas, explore, report
from gradembed.store import Cache
from gradembed.sweep import SweepResult, sweep
from gradembed.training import TrainConfig, TrainingRun, train, train_ensemble
from gradembed.transplant import Transplants, transplant
from gradembed.tree import GradientTree, gradient_tree

if TYPE_CHECKING:
    from gradembed import plots

__version__ = version("gradembed")

__all__ = [
    # data, and how good an embedding is
    "datasets", "metrics",
    # models and training
    "MLP", "MLPEnsemble", "TrainConfig", "TrainingRun", "train", "train_ensemble", "untrained",
    # gradients and interference
    "Site", "UnitGradients", "unit_gradients", "Interference", "interference",
    # interference while a network trains, and where tasks should part
    "InterferenceMonitor", "TrainingCourse", "training_course", "SplitRecommendation", "recommend_split",
    # tree, and which units serve which task
    "GradientTree", "gradient_tree", "TaskModules", "ablated", "task_modules",
    # whether a claimed twin can do a unit's work
    "Transplants", "transplant",
    # gradient fields
    "GradientFields", "estimated_fields", "field_mask", "gradient_fields", "grid_points", "sample_points",
    "sobol_points",
    # units embedded by what they compute
    "FieldDescriptor", "GradientFieldEmbedder", "RowEmbedder",
    # one unit, and everything about one network, on one page
    "UnitCard", "unit_card", "Atlas", "explore", "report",
    # many settings, results on disk, figures
    "SweepResult", "sweep", "Cache", "plots",
]  # fmt: skip


def __getattr__(name: str) -> Any:
    """Import matplotlib only when the first figure is drawn.

    Returns:
        The module ``plots``.

    Raises:
        AttributeError: If it is another name that is asked for.
    """
    if name == "plots":
        return import_module("gradembed.plots")
    raise AttributeError(f"module 'gradembed' has no attribute {name!r}")
