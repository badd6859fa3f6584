"""The monitor as a callback of Lightning: ``pip install lightning``."""

from __future__ import annotations

from typing import Any

from gradembed._validation import refuse
from gradembed.gradients.batches import each
from gradembed.monitor import InterferenceMonitor

try:
    from lightning.pytorch import Callback
except ImportError:
    Callback = None


class InterferenceCallback(Callback or object):  # type: ignore[misc]
    """Makes an `InterferenceMonitor` when fitting begins, and calls it after each batch.

    Args:
        probe: One batch; it is moved to the module's device.
        **settings: Of the monitor, ``forward`` among them. Without ``log``, the trainer's loggers get the values.

    Attributes:
        monitor: The monitor, once fitting has begun; ``None`` before.

    Raises:
        ImportError: If Lightning is not installed.
    """

    def __init__(self, probe: Any, **settings: Any) -> None:
        if Callback is None:
            refuse("lightning", "be installed", "none", "pip install 'gradembed[lightning]'", ImportError)
        super().__init__()
        self.probe, self.settings = probe, settings
        self.monitor: InterferenceMonitor | None = None

    def on_train_start(self, trainer: Any, pl_module: Any) -> None:
        """Make the monitor, and measure for the first time."""

        def log(values: dict[str, float]) -> None:
            for logger in trainer.loggers:
                logger.log_metrics({k: v for k, v in values.items() if k != "step"}, int(values["step"]))

        probe = each(self.probe, lambda tensor: tensor.to(pl_module.device))
        self.monitor = InterferenceMonitor(pl_module, probe, **{"log": log} | self.settings)
        self.monitor(trainer.global_step)

    def on_train_batch_end(self, trainer: Any, *_: Any) -> None:
        """Measure, if it is time."""
        if self.monitor:
            self.monitor(trainer.global_step)
