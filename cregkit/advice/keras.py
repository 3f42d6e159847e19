"""A callback for Keras that prints the advice at the end of training."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from cregkit.advice.recorder import Recorder


def advice_callback(**settings: Any) -> Any:
    """Return a ``keras.callbacks.Callback`` that prints the advice on the epochs of ``Model.fit`` when it ends.

    Keras is imported by this call, not before.

    Parameters
    ----------
    **settings
        ``model``, ``batch_size``, ``optimizer`` and ``test_samples`` of ``cregkit.advise``.

    Returns
    -------
    keras.callbacks.Callback
        For ``Model.fit(..., validation_data=..., callbacks=[advice_callback(model="mlp")])``.

    Raises
    ------
    ImportError
        Keras is not installed.
    TypeError
        A setting has the wrong type or name.
    ValueError
        A setting has the wrong value.

    Examples
    --------
    >>> from cregkit.advice.keras import advice_callback
    >>> def train(model, x, y):
    ...     model.fit(x, y, validation_split=0.2, epochs=20, callbacks=[advice_callback(model="mlp")])
    """
    from keras.callbacks import Callback

    class _AdviceCallback(Callback):  # type: ignore[misc]
        recorder = Recorder(**settings)

        def on_train_begin(self, logs: Mapping[str, Any] | None = None) -> None:
            self.recorder.restart()

        def on_epoch_end(self, epoch: int, logs: Mapping[str, Any] | None = None) -> None:
            self.recorder.add(logs or {})

        def on_train_end(self, logs: Mapping[str, Any] | None = None) -> None:
            self.recorder.report()

    return _AdviceCallback()
