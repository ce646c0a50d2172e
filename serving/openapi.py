"""The OpenAPI document of a bundle's service, with its columns by name, kind and example."""

import re
from collections.abc import Sequence
from http import HTTPStatus
from typing import Any
from urllib.parse import quote

from serving.batch_service import GIVEN
from serving.bundle import Bundle
from serving.doors import OPEN, scope_of
from serving.feedback import LONGEST_ID, MOST_TRUTHS
from serving.request import MOST_EXPLAINED, MOST_ROWS
from tasks.core.calendar import format_time
from tasks.core.images import FORMATS
from tasks.core.target import Target, as_text

MOST_EXAMPLES = 8
REFUSALS = {
    400: "no HTTP/1.1 that can be understood in one way alone, not JSON, a key twice in an object, or another shape than described",
    401: "no key or token, or none that is good",
    403: "the key has not the scope, or a page of another site asks",
    404: "no such release, or no prediction log",
    406: "a batch is answered as none of the accepted types",
    408: "the request did not end in time",
    409: "the model follows no channel",
    413: "the body is too large, or has too many rows or pixels",
    415: "the body is packed",
    422: "a field is missing, unknown or of the wrong kind",
    429: "the key's rate is used up",
    431: "the path and the headers are too large",
    500: "the release answers what is no number, or the service has a fault",
    503: "too much is asked at once, or there is no release yet",
}
FEW = f"at most {MOST_ROWS:,} rows; to explain at most {MOST_EXPLAINED}"
ALWAYS = (400, 403, 408, 415, 431)
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
    "required": ["title", "status", "detail"],
}
TEXT = {"schema": {"type": "string"}}
BYTES = {"schema": {"type": "string", "format": "binary"}}
HTML = {"description": "a page", "content": {"text/html": TEXT}}
VERSION = {"X-Model-Version": {"schema": {"type": "string"}, "description": "the release that answered", "required": True}}


def _object(required: bool = True, /, **properties: Any) -> dict[str, Any]:
    return {"type": "object", "properties": properties, **({"required": [*properties]} if required else {})}


def _list(items: dict[str, Any]) -> dict[str, Any]:
    return {"type": "array", "items": items}


STRING = {"type": "string"}
TENSOR = _object(name=STRING, datatype=STRING, shape=_list({"type": "integer"}))
# Answers that are the same for every model.
PLAIN: dict[str, Any] = {
    "Anything": {"type": "object"},
    "Accepted": _object(accepted={"type": "integer"}),
    "Health": _object(status={"enum": ["ok"]}),
    "Live": _object(live={"type": "boolean"}),
    "Ready": _object(ready={"type": "boolean"}),
    "Server": _object(name=STRING, version=STRING, extensions=_list(STRING)),
    "Models": _object(models=_list(_object(name=STRING, channels={"type": "object"}))),
    "Status": _object(
        model_version_status=_list(
            _object(
                version=STRING,
                state={"enum": ["AVAILABLE", "END"]},
                status=_object(error_code=STRING, error_message=STRING),
            )
        )
    ),
    "Signature": _object(model_spec=_object(name=STRING, signature_name=STRING, version=STRING), metadata={"type": "object"}),
    "Tensored": _object(name=STRING, versions=_list(STRING), platform=STRING, inputs=_list(TENSOR), outputs=_list(TENSOR)),
    "ModelReady": _object(name=STRING, ready={"type": "boolean"}),
    "Inferred": _object(model_name=STRING, model_version=STRING, outputs=_list(TENSOR)),
}


def describe(bundles: Sequence[Bundle], locked: bool) -> dict[str, Any]:
    """OpenAPI 3.0, which the page of swagger-ui-bundle and every generator read; schemas of several models bear their names.

    `locked`: whether a key or token is asked for.
    """
    paths: dict[str, Any] = {}
    schemas: dict[str, Any] = {"Problem": PROBLEM, **PLAIN}
    for bundle in bundles:
        prefix = f"{re.sub('[^A-Za-z0-9_.-]', '_', bundle.name)}." if len(bundles) > 1 else ""
        paths |= _paths(bundle, prefix)
        schemas |= {prefix + name: schema for name, schema in _schemas(bundle, prefix).items()}
        page = f"/models/{quote(bundle.name)}"
        paths[page] = {"get": _operation(f"{prefix}page", "The model's page", HTML)}
    paths |= _service()
    if locked:
        for path, methods in paths.items():
            for operation in methods.values():
                _lock(operation, path)
    one = bundles[0] if len(bundles) == 1 else None
    schemes: dict[str, Any] = {
        "bearer": {"type": "http", "scheme": "bearer", "description": "a key, or a token of the identity provider"},
        "key": {"type": "apiKey", "in": "header", "name": "X-API-Key"},
        "basic": {"type": "http", "scheme": "basic", "description": "a key as the password, with any name"},
    }
    return {
        "openapi": "3.0.3",
        "info": {
            "title": one.name if one else "models",
            "version": one.version if one else ", ".join(f"{bundle.name} {bundle.version}" for bundle in bundles),
            "description": " ".join(f"Answers {bundle.encoder.target.meaning}." for bundle in bundles),
        },
        "paths": paths,
        "components": {"schemas": schemas, **({"securitySchemes": schemes} if locked else {})},
        **({"security": [{name: []} for name in schemes]} if locked else {}),
    }


def _service() -> dict[str, Any]:
    """What can be asked of the service, whatever its models."""
    gets: dict[str, tuple[str, str, dict[str, Any], tuple[int, ...]]] = {
        "/": ("home", "The page", HTML, ()),
        "/v1/models": ("models", "All models, their channels and how trials go", _json("all models", "Models"), ()),
        "/v2": ("server", "The Open Inference Protocol's server metadata", _json("name, version, extensions", "Server"), ()),
        "/v2/health/live": ("live", "Alive", _json("alive", "Live"), ()),
        "/v2/health/ready": ("v2ready", "Ready", _json("every model has a release", "Ready"), (503,)),
        "/metrics": ("metrics", "For Prometheus", {"description": "counts", "content": {"text/plain": TEXT}}, ()),
        "/readyz": ("ready", "Ready", _json("every model has a release", "Ready"), (503,)),
        "/healthz": ("health", "Alive", _json("the process answers", "Health"), ()),
        "/openapi.json": ("openapi", "This document", _json("this document", "Anything"), ()),
        "/docs": ("docs", "This document to read and try", HTML, ()),
    }
    return {
        path: {"get": _operation(name, said, answer, *more, busy=path not in OPEN)}
        for path, (name, said, answer, more) in gets.items()
    }


def _paths(bundle: Bundle, prefix: str) -> dict[str, Any]:
    """What can be asked of a model: of its release in production, of one by its version, of one by its channel."""
    name = quote(bundle.name)
    meaning = bundle.encoder.target.meaning
    example = {"instances": bundle.golden[:1]}
    files = dict.fromkeys(GIVEN.values(), BYTES)  # batches
    paths: dict[str, Any] = {}
    for part, suffix, parameter in (
        ("", "", None),
        ("/versions/{version}", "_version", _parameter("version", bundle.version)),
        ("/labels/{label}", "_label", _parameter("label", "production")),
    ):
        path, named = f"/v1/models/{name}{part}", (404,) if part else ()

        def put(path: str, verb: str, summary: str, answer: dict[str, Any], *more: int, body: Any = None, **told: Any) -> None:
            operation = _operation(f"{prefix}{verb}{suffix}", summary, answer, *more, *named, body=body, **told)  # noqa: B023
            if parameter:  # noqa: B023
                operation["parameters"] = [parameter]  # noqa: B023
            paths[path] = {"get" if body is None else "post": operation}

        scored = _json(f"{meaning}, for each row in their order", f"{prefix}Response", VERSION)
        scored["content"] |= files
        scoring = _body(_of(prefix, "Request"), example)
        scoring["content"] |= files
        put(f"{path}:predict", "predict", "Score rows", scored, 406, 422, body=scoring)
        put(
            f"{path}:explain", "explain", "Say what each column adds to the answer",
            _json("base and contributions of each row, which together make its answer", f"{prefix}Explanations", VERSION), 422,
            body=_body(_of(prefix, "Request"), example),
        )  # fmt: skip
        put(path, "status", "Versions and states", _json("TensorFlow Serving's model status", "Status"))
        put(f"{path}/metadata", "metadata", "Columns and outputs", _json("the signature", "Signature", VERSION))
        if part != "/labels/{label}":
            path = f"/v2/models/{name}{part}"
            inferred = _json("the tensors prediction, and label, low, high or decision", "Inferred", VERSION)
            inferred["content"]["application/octet-stream"] = BYTES  # JSON, and binary tensors behind it
            content = {"application/json": {"schema": _of(prefix, "Tensors")}, "application/octet-stream": BYTES}
            put(
                f"{path}/infer",
                "infer",
                "Score rows by the Open Inference Protocol, version 2",
                inferred,
                422,
                body={"required": True, "content": content},
            )
            put(path, "describe", "Columns and outputs as tensors", _json("the tensors", "Tensored", VERSION))
            put(f"{path}/ready", "model_ready", "Ready", _json("it has a release", "ModelReady", VERSION))
    refresh = _operation(
        f"{prefix}refresh", "Look at the release store now", _json("TensorFlow Serving's model status", "Status"), 409
    )
    paths[f"/v1/models/{name}:refresh"] = {"post": refresh}
    feedback = _operation(
        f"{prefix}feedback",
        "Tell what became true of rows that were answered, by their ids; the service must keep a prediction log",
        _json("how many truths will be written", "Accepted"),
        404,
        422,
        body={"required": True, "content": {"application/json": {"schema": _of(prefix, "Feedback")}}},
    )
    paths[f"/v1/models/{name}:feedback"] = {"post": feedback}
    for verb, summary, told in (
        (
            "live",
            "The last hour: traffic, latency, scores and columns beside what was expected",
            "series of ten seconds each, totals",
        ),
        (
            "history",
            "Channels, trials, refusals and the latest moves",
            "what the release store says, and why if it does not answer",
        ),
    ):
        paths[f"/v1/models/{name}/{verb}"] = {"get": _operation(f"{prefix}{verb}", summary, _json(told, "Anything"))}
    return paths


def _operation(
    name: str, summary: str, answer: dict[str, Any], *more: int, body: dict[str, Any] | None = None, busy: bool = True
) -> dict[str, Any]:
    """An operation, its answer, and all that may be said in its place; `busy`: whether it is sent away when too much is asked."""
    refusals = {*ALWAYS, *more, *((413,) if body else ()), *((503,) if busy else ())}
    responses = {str(status): _refusal(status) for status in sorted(refusals)}
    operation: dict[str, Any] = {"operationId": name, "summary": summary, "responses": {"200": answer, **responses}}
    return {**operation, **({"requestBody": body} if body else {})}


def _lock(operation: dict[str, Any], path: str) -> None:
    """The operation tells what it takes to be let in."""
    if path in OPEN:
        operation["security"] = []
        return
    operation["description"] = f"for keys and tokens with the scope {scope_of(path)}"
    operation["responses"] |= {str(status): _refusal(status) for status in (401, 403, 429)}


def _refusal(status: int) -> dict[str, Any]:
    problem = {"application/problem+json": {"schema": {"$ref": "#/components/schemas/Problem"}}}
    said: dict[str, Any] = {"description": REFUSALS[status], "content": problem}
    if status == HTTPStatus.UNAUTHORIZED:
        said["headers"] = {"WWW-Authenticate": {"schema": {"type": "string"}, "required": True}}
    if status in (HTTPStatus.TOO_MANY_REQUESTS, HTTPStatus.SERVICE_UNAVAILABLE):
        said["headers"] = {"Retry-After": {"schema": {"type": "integer"}, "description": "seconds", "required": True}}
    return said


def _json(said: str, schema: str, headers: dict[str, Any] | None = None) -> dict[str, Any]:
    content = {"application/json": {"schema": _of("", schema)}}
    return {"description": said, "content": content, **({"headers": headers} if headers else {})}


def _body(schema: dict[str, Any], example: dict[str, Any]) -> dict[str, Any]:
    return {"required": True, "content": {"application/json": {"schema": schema, "example": example}}}


def _parameter(name: str, example: str) -> dict[str, Any]:
    return {"name": name, "in": "path", "required": True, "schema": {"type": "string"}, "example": example}


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
    signature = {"signature_name": {"type": "string", "nullable": True}}
    rows = {
        "type": "object",
        "properties": {
            "instances": {"type": "array", "minItems": 1, "description": FEW, "items": _of(prefix, "Row")},
            **signature,
        },
        "required": ["instances"],
        "additionalProperties": False,
    }
    lists = {name: {"type": "array", "minItems": 1, "items": one} for name, one in columns.items()}
    by_column = {"type": "object", "properties": lists, "required": bundle.encoder.required, "additionalProperties": False}
    in_columns = {
        "type": "object",
        "description": "the same rows in columns of equal length, which are answered as `outputs`",
        "properties": {"inputs": {**by_column, "minProperties": 1}, **signature},
        "required": ["inputs"],
        "additionalProperties": False,
    }
    return {
        "Row": {"type": "object", "properties": columns, "required": bundle.encoder.required, "additionalProperties": False},
        "Feedback": _feedback(bundle.encoder.target),
        "Request": {"oneOf": [rows, in_columns]},
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
    in_rows = {"type": "object", "properties": properties, "required": list(properties)}
    outputs = properties["predictions"] if len(properties) == 1 else in_rows
    return {"oneOf": [in_rows, _object(outputs=outputs)]}


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
        "time": {"type": "string", "nullable": True, "format": "date-time", "description": "when it became true"},
    }
    entry = {"type": "object", "properties": properties, "required": ["id", "truth"], "additionalProperties": False}
    listed = {"type": "array", "minItems": 1, "description": f"at most {MOST_TRUTHS:,}", "items": entry}
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
