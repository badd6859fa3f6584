"""The monitor as a callback of the Hugging Face ``Trainer``: ``pip install transformers``."""

from __future__ import annotations

from typing import Any

from gradembed._validation import refuse
from gradembed.gradients.batches import each
from gradembed.monitor import InterferenceMonitor

try:
    from transformers import TrainerCallback
except ImportError:
    TrainerCallback = None


class InterferenceCallback(TrainerCallback or object):  # type: ignore[misc]
    """Makes an `InterferenceMonitor` when training begins, and calls it after each step.

    Args:
        probe: One batch, such as the tokenizer returns; it is moved to the model's device.
        **settings: Of the monitor, ``forward`` and ``log`` among them.

    Attributes:
        monitor: The monitor, once training has begun; ``None`` before.

    Raises:
        ImportError: If transformers is not installed.
    """

    def __init__(self, probe: Any, **settings: Any) -> None:
        if TrainerCallback is None:
            refuse("transformers", "be installed", "none", "pip install 'gradembed[transformers]'", ImportError)
        super().__init__()
        self.probe, self.settings = probe, settings
        self.monitor: InterferenceMonitor | None = None

    def on_train_begin(self, _args: Any, state: Any, _control: Any, *, model: Any, **_: Any) -> None:
        """Make the monitor, and measure for the first time."""
        probe = dict(self.probe) if hasattr(self.probe, "keys") else self.probe  # the tokenizer's is no dictionary
        probe = each(probe, lambda tensor: tensor.to(model.device))
        self.monitor = InterferenceMonitor(model, probe, **self.settings)
        self.monitor(state.global_step)

    def on_step_end(self, _args: Any, state: Any, _control: Any, **_: Any) -> None:
        """Measure, if it is time."""
        if self.monitor:
            self.monitor(state.global_step)
