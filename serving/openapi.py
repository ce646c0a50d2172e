"""The OpenAPI document of a bundle's service, with its columns by name, kind and example."""

import re
from collections.abc import Sequence
from typing import Any

from serving.batch_service import GIVEN
from serving.bundle import Bundle
from serving.feedback import LONGEST_ID, MOST_TRUTHS
from tasks.core.calendar import format_time
from tasks.core.images import FORMATS
from tasks.core.target import Target, as_text

MOST_EXAMPLES = 8
PROBLEM: dict[str, Any] = {
    "type": "object",
    "description": "RFC 9457",
    "properties": {
        "title": {"type": "string"},
        "status": {"type": "integer"},
        "detail": {"type": "string"},
        "errors": {
            "type": "array",
            "items": {"type": "object", "properties": {"field": {"type": "string"}, "detail": {"type": "string"}}},
        },
    },
}


def describe(bundles: Sequence[Bundle]) -> dict[str, Any]:
    """OpenAPI 3.0, which the page of swagger-ui-bundle and every generator read; schemas of several models bear their names."""
    paths: dict[str, Any] = {}
    schemas: dict[str, Any] = {"Problem": PROBLEM}
    for bundle in bundles:
        prefix = f"{re.sub('[^A-Za-z0-9_.-]', '_', bundle.name)}." if len(bundles) > 1 else ""
        paths |= _paths(bundle, prefix)
        schemas |= {prefix + name: schema for name, schema in _schemas(bundle, prefix).items()}
    for path, name, said in (
        ("/v1/models", "models", "All models, their channels and how trials go"),
        ("/metrics", "metrics", "For Prometheus"),
        ("/readyz", "ready", "Ready"),
        ("/healthz", "health", "Alive"),
    ):
        paths[path] = {"get": {"operationId": name, "summary": said, "responses": {"200": {"description": said}}}}
    one = bundles[0] if len(bundles) == 1 else None
    return {
        "openapi": "3.0.3",
        "info": {
            "title": one.name if one else "models",
            "version": one.version if one else ", ".join(f"{bundle.name} {bundle.version}" for bundle in bundles),
            "description": " ".join(f"Answers {bundle.encoder.target.meaning}." for bundle in bundles),
        },
        "paths": paths,
        "components": {"schemas": schemas},
    }


def _paths(bundle: Bundle, prefix: str) -> dict[str, Any]:
    """What can be asked of a model."""
    path = f"/v1/models/{bundle.name}"
    problem = {"content": {"application/problem+json": {"schema": {"$ref": "#/components/schemas/Problem"}}}}
    refusals = {
        "400": "not JSON, or not the row format",
        "413": "the body is too large",
        "422": "a field is missing, unknown or of the wrong kind",
        "503": "too many requests are under way",
    }
    answered = {status: {"description": text, **problem} for status, text in refusals.items()}
    example = {"schema": _of(prefix, "Request"), "example": {"instances": bundle.golden[:1]}}
    body = {"required": True, "content": {"application/json": example}}

    def verb(name: str, summary: str, schema: str, told: str) -> dict[str, Any]:
        responses = {"200": {"description": told, "content": {"application/json": {"schema": _of(prefix, schema)}}}, **answered}
        return {"post": {"operationId": prefix + name, "summary": summary, "requestBody": dict(body), "responses": responses}}

    meaning = bundle.encoder.target.meaning
    return {
        f"{path}:predict": _with_batches(verb("predict", "Score rows", "Response", f"{meaning}, for each row in their order")),
        f"{path}:feedback": {
            "post": {
                "operationId": f"{prefix}feedback",
                "summary": "Tell what became true of rows that were answered, by their ids",
                "requestBody": {"required": True, "content": {"application/json": {"schema": _of(prefix, "Feedback")}}},
                "responses": {
                    "200": {"description": "how many truths will be written"},
                    "404": {"description": "the service keeps no prediction log", **problem},
                    **answered,
                },
            }
        },
        f"{path}:explain": verb(
            "explain",
            "Say what each column adds to the answer",
            "Explanations",
            "base and contributions of each row, which together make its answer",
        ),
        path: {
            "get": {
                "operationId": f"{prefix}status",
                "summary": "Versions and states",
                "responses": {"200": {"description": "TensorFlow Serving's model status"}},
            }
        },
        f"{path}/metadata": {
            "get": {
                "operationId": f"{prefix}metadata",
                "summary": "Columns and outputs",
                "responses": {"200": {"description": "TensorFlow Serving's model metadata"}},
            }
        },
        f"{path}/live": {
            "get": {
                "operationId": f"{prefix}live",
                "summary": "The last hour: traffic, latency, scores and columns beside what was expected",
                "responses": {"200": {"description": "series of ten seconds each, and the totals of the hour"}},
            }
        },
        f"{path}/history": {
            "get": {
                "operationId": f"{prefix}history",
                "summary": "Channels, trials, refusals and the latest moves",
                "responses": {"200": {"description": "what the release store says, and why if it does not answer"}},
            }
        },
        f"/v2/models/{bundle.name}/infer": {
            "post": {
                "operationId": f"{prefix}infer",
                "summary": "Score rows by the Open Inference Protocol, version 2",
                "requestBody": {"required": True, "content": {"application/json": {"schema": _of(prefix, "Tensors")}}},
                "responses": {"200": {"description": "the tensors prediction, and label, low, high or decision"}, **answered},
            }
        },
    }


def _with_batches(path: dict[str, Any]) -> dict[str, Any]:
    """The path takes and gives files of Arrow and Parquet too."""
    files = {media: {"schema": {"type": "string", "format": "binary"}} for media in GIVEN.values()}
    path["post"]["requestBody"]["content"] = {**path["post"]["requestBody"]["content"], **files}
    path["post"]["responses"]["200"]["content"] |= files
    path["post"]["responses"]["406"] = {"description": "a batch is answered as none of the accepted types"}
    path["post"]["responses"]["408"] = {"description": "the body did not end in time"}
    return path


def _of(prefix: str, name: str) -> dict[str, str]:
    return {"$ref": f"#/components/schemas/{prefix}{name}"}


def _schemas(bundle: Bundle, prefix: str) -> dict[str, Any]:
    columns: dict[str, Any] = {}
    for number in bundle.encoder.numbers:
        low, high = number.edges[0], number.edges[-1]
        columns[number.name] = {**_type("number", number.required), "description": f"in training from {low:g} to {high:g}"}
    for date in bundle.encoder.dates:
        span = " to ".join(format_time(edge) for edge in (date.edges[0], date.edges[-1]))
        text = f"a date or time, 2013-07-04 or 2013-07-04T18:30:00; in training {span}"
        columns[date.name] = {**_type("string", date.required), "description": text}
    for category in bundle.encoder.categories:
        columns[category.name] = {**_type("string", category.required), "description": f"in training {_some(category.vocabulary)}"}
    for text_column in bundle.encoder.texts:
        said = f"text, of which the first {text_column.slots} words count"
        columns[text_column.name] = {**_type("string", text_column.required), "description": said}
    for image in bundle.encoder.images:
        size = f"{image.width} x {image.height} pixels{' of grey' if image.channels == 1 else ''}"
        said = f"an image file ({', '.join(FORMATS)}) in base64, which is resized to {size}"
        columns[image.name] = {"type": "string", "format": "byte", "description": said}
    return {
        "Row": {"type": "object", "properties": columns, "required": bundle.encoder.required, "additionalProperties": False},
        "Feedback": _feedback(bundle.encoder.target),
        "Request": {
            "type": "object",
            "properties": {
                "instances": {"type": "array", "minItems": 1, "items": _of(prefix, "Row")},
                "signature_name": {"type": "string"},
            },
            "required": ["instances"],
            "additionalProperties": False,
        },
        "Tensors": {
            "type": "object",
            "properties": {
                "id": {"type": "string"},
                "inputs": {
                    "type": "array",
                    "minItems": 1,
                    "items": {
                        "type": "object",
                        "properties": {
                            "name": {"type": "string", "enum": bundle.encoder.names},
                            "shape": {"type": "array", "items": {"type": "integer"}},
                            "datatype": {"type": "string"},
                            "data": {"type": "array", "items": {}},
                        },
                        "required": ["name", "shape", "datatype"],
                    },
                },
            },
            "required": ["inputs"],
        },
        "Response": _response(bundle.encoder.target),
        "Explanations": {
            "type": "object",
            "properties": {"explanations": {"type": "array", "items": _explanation(bundle)}},
            "required": ["explanations"],
        },
    }


def _response(target: Target) -> dict[str, Any]:
    """The schema of all answers, with the decisions of a model that has some."""
    properties: dict[str, Any] = {"predictions": {"type": "array", "items": _prediction(target)}}
    if target.decision is not None:
        threshold = target.decision.threshold
        said = "of the lowest expected cost" if threshold is None else f"{as_text(target.classes[1])} from {threshold:.4g} on"
        labels = {"enum": list(target.classes), "description": f"the class to act on: {said}"}
        properties["decisions"] = {"type": "array", "items": labels}
    return {"type": "object", "properties": properties, "required": list(properties)}


def _feedback(target: Target) -> dict[str, Any]:
    """The schema of truths by the ids of rows."""
    truth: dict[str, Any] = {"type": "number"}
    if target.classes:
        truth = {"enum": list(target.classes)}
    properties = {
        "id": {
            "type": "string",
            "minLength": 1,
            "maxLength": LONGEST_ID,
            "description": "x-request-id; of several rows ID-0, ID-1",
        },
        "truth": truth,
        "time": {"type": "string", "format": "date-time", "description": "when it became true"},
    }
    entry = {"type": "object", "properties": properties, "required": ["id", "truth"], "additionalProperties": False}
    listed = {"type": "array", "minItems": 1, "maxItems": MOST_TRUTHS, "items": entry}
    return {"type": "object", "properties": {"feedback": listed}, "required": ["feedback"], "additionalProperties": False}


def _explanation(bundle: Bundle) -> dict[str, Any]:
    """The schema of one explanation: Shapley values against rows that stand for all of training."""
    number = {"type": "number"}
    properties: dict[str, Any] = {
        "base": {**number, "description": "the mean answer to rows that stand for all of training"},
        "answer": {**number, "description": "what predict answers to the row: base and all contributions together"},
        "contributions": {"type": "object", "properties": dict.fromkeys(bundle.encoder.names, number)},
    }
    if bundle.encoder.target.classes:
        properties["class"] = {"enum": list(bundle.encoder.target.classes), "description": "whose probability the answer is"}
    return {"type": "object", "properties": properties, "required": list(properties)}


def _prediction(target: Target) -> dict[str, Any]:
    """The schema of one answer."""
    probability = {"type": "number", "minimum": 0, "maximum": 1}
    match target.task:
        case "binary":
            return probability
        case "multiclass":
            labels = [as_text(label) for label in target.classes]
            return {"type": "object", "properties": dict.fromkeys(labels, probability), "required": labels}
        case "regression":
            number = {"type": "number"}
            if target.intervals is None:
                return number
            names = ["value", "low", "high"]
            return {"type": "object", "properties": dict.fromkeys(names, number), "required": names}


def _type(kind: str, required: bool) -> dict[str, Any]:
    return {"type": kind} if required else {"type": kind, "nullable": True}


def _some(words: tuple[str, ...]) -> str:
    shown = ", ".join(words[:MOST_EXAMPLES])
    return shown if len(words) <= MOST_EXAMPLES else f"{shown} and {len(words) - MOST_EXAMPLES} more"
