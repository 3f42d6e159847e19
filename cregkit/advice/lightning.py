"""A callback for Lightning that prints the advice at the end of training."""

from __future__ import annotations

import sys
from typing import Any

from cregkit.advice import names
from cregkit.advice.recorder import Recorder


def advice_callback(**settings: Any) -> Any:
    """Return a Lightning ``Callback`` that prints the advice on what ``LightningModule.log`` recorded in each epoch.

    Lightning is imported by this call, not before: ``pytorch_lightning`` if the program uses it, else
    ``lightning.pytorch``. Of several processes, the first one prints.

    Parameters
    ----------
    **settings
        ``model``, ``batch_size``, ``optimizer`` and ``test_samples`` of ``cregkit.advise``.

    Returns
    -------
    Callback
        For ``Trainer(callbacks=[advice_callback(model="mlp")])``.

    Raises
    ------
    ImportError
        Lightning is not installed.
    TypeError
        A setting has the wrong type or name.
    ValueError
        A setting has the wrong value.

    Examples
    --------
    >>> from cregkit.advice.lightning import advice_callback
    >>> def train(Trainer, module, batches, validation_batches):
    ...     Trainer(max_epochs=20, callbacks=[advice_callback(model="mlp")]).fit(module, batches, validation_batches)
    """
    if "pytorch_lightning" in sys.modules:
        from pytorch_lightning import Callback
    else:
        from lightning.pytorch import Callback

    class _AdviceCallback(Callback):  # type: ignore[misc]
        recorder = Recorder(**settings)
        validated = False

        def on_fit_start(self, trainer: Any, pl_module: Any) -> None:
            self.recorder.restart()

        def on_train_epoch_start(self, trainer: Any, pl_module: Any) -> None:
            self.validated = False

        def on_validation_end(self, trainer: Any, pl_module: Any) -> None:
            self.validated = True

        def on_train_epoch_end(self, trainer: Any, pl_module: Any) -> None:
            figures = trainer.callback_metrics.items()  # of a former epoch, if this one was not validated
            self.recorder.add(
                {name: value for name, value in figures if self.validated or names.side(name) != names.TEST}
            )

        def on_fit_end(self, trainer: Any, pl_module: Any) -> None:
            if trainer.is_global_zero:
                self.recorder.report()

    return _AdviceCallback()
