"""What TensorFlow Serving's REST API tells of a model: https://www.tensorflow.org/tfx/serving/api_rest"""

from typing import Any

from serving.bundle import Bundle
from serving.models import Model, Served


def outputs(answer: dict[str, list[Any]]) -> dict[str, Any]:
    """The answer to a request in columns: the one output alone, or several by name."""
    return {"outputs": answer["predictions"] if len(answer) == 1 else answer}


def status(model: Model, wanted: Served | None) -> dict[str, Any]:
    """The releases of the model and their states: those that answer, and those that a channel names and that were refused."""
    served = [*model.channels().values()] if wanted is None else [wanted]
    states = [_state(version, "AVAILABLE", "OK", "") for version in dict.fromkeys(one.version for one in served)]
    if wanted is None:
        states += [_state(version, "END", "FAILED_PRECONDITION", why) for version, why in dict.fromkeys(model.refused.values())]
    return {"model_version_status": states}


def _state(version: str, state: str, code: str, message: str) -> dict[str, Any]:
    return {"version": version, "state": state, "status": {"error_code": code, "error_message": message}}


def summary(model: Model) -> dict[str, Any]:
    """The model's name, the version of each channel, what of them was refused, and how trials go."""
    channels: dict[str, dict[str, Any]] = {
        channel: {"version": served.version, "candidate": served.bundle.chosen} for channel, served in model.channels().items()
    }
    for channel, trial in model.trials.items():
        told = trial.comparison
        channels[channel] |= {"share": trial.share, "on": trial.on, "requests": told.requests, "errors": told.errors}
        if told.seconds:
            channels[channel] |= {"latency": round(told.slower, 3), "shift": round(told.shift, 4)}
    refused = {channel: {"version": version, "why": why} for channel, (version, why) in model.refused.items()}
    return {"name": model.name, "channels": channels, **({"refused": refused} if refused else {})}


def metadata(name: str, bundle: Bundle) -> dict[str, Any]:
    """The signature: each column is a tensor [row]."""
    encoder, target = bundle.encoder, bundle.encoder.target
    numbers = {column.name for column in encoder.numbers}
    inputs = {one: _tensor("DT_DOUBLE" if one in numbers else "DT_STRING", one) for one in encoder.names}
    told = {"predictions": _tensor("DT_FLOAT", "predictions")}
    if target.decision is not None:
        told["decisions"] = _tensor("DT_STRING", "decisions")
    endpoint = {"inputs": inputs, "outputs": told, "method_name": "tensorflow/serving/predict"}
    return {
        "model_spec": {"name": name, "signature_name": "", "version": bundle.version},
        "metadata": {"signature_def": {"signature_def": {"serving_default": endpoint}}},
    }


def _tensor(kind: str, name: str) -> dict[str, Any]:
    return {"dtype": kind, "tensor_shape": {"dim": [{"size": "-1", "name": ""}], "unknown_rank": False}, "name": name}
