"""The OpenAPI document of a bundle's service, with its columns by name, kind and example."""

from typing import Any

from serving.bundle import Bundle

MOST_EXAMPLES = 8


def describe(bundle: Bundle) -> dict[str, Any]:
    """OpenAPI 3.0, which the page of swagger-ui-bundle and every generator read."""
    path = f"/v1/models/{bundle.name}"
    problem = {"content": {"application/problem+json": {"schema": {"$ref": "#/components/schemas/Problem"}}}}
    refusals = {
        "400": "not JSON, or not the row format",
        "413": "the body is too large",
        "422": "a field is missing, unknown or of the wrong kind",
    }
    return {
        "openapi": "3.0.3",
        "info": {"title": bundle.name, "version": bundle.version, "description": f"The probability that {bundle.target} is 1."},
        "paths": {
            f"{path}:predict": {
                "post": {
                    "operationId": "predict",
                    "summary": "Score rows",
                    "requestBody": {
                        "required": True,
                        "content": {
                            "application/json": {
                                "schema": {"$ref": "#/components/schemas/Request"},
                                "example": {"instances": bundle.golden[:1]},
                            }
                        },
                    },
                    "responses": {
                        "200": _answer("Response", "a probability for each row, in their order"),
                        **{status: {"description": text, **problem} for status, text in refusals.items()},
                    },
                }
            },
            path: {
                "get": {
                    "operationId": "status",
                    "summary": "Version and state",
                    "responses": {"200": {"description": "TensorFlow Serving's model status"}},
                }
            },
            "/healthz": {"get": {"operationId": "health", "summary": "Alive", "responses": {"200": {"description": "alive"}}}},
        },
        "components": {"schemas": _schemas(bundle)},
    }


def _answer(schema: str, text: str) -> dict[str, Any]:
    return {"description": text, "content": {"application/json": {"schema": {"$ref": f"#/components/schemas/{schema}"}}}}


def _schemas(bundle: Bundle) -> dict[str, Any]:
    columns: dict[str, Any] = {}
    for number in bundle.encoder.numbers:
        low, high = number.edges[0], number.edges[-1]
        columns[number.name] = {**_type("number", number.required), "description": f"in training from {low:g} to {high:g}"}
    for category in bundle.encoder.categories:
        columns[category.name] = {**_type("string", category.required), "description": f"in training {_some(category.vocabulary)}"}
    required = [column.name for column in bundle.encoder.numbers if column.required]
    required += [column.name for column in bundle.encoder.categories if column.required]
    return {
        "Row": {"type": "object", "properties": columns, "required": required, "additionalProperties": False},
        "Request": {
            "type": "object",
            "properties": {
                "instances": {"type": "array", "minItems": 1, "items": {"$ref": "#/components/schemas/Row"}},
                "signature_name": {"type": "string"},
            },
            "required": ["instances"],
            "additionalProperties": False,
        },
        "Response": {
            "type": "object",
            "properties": {"predictions": {"type": "array", "items": {"type": "number", "minimum": 0, "maximum": 1}}},
            "required": ["predictions"],
        },
        "Problem": {
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
        },
    }


def _type(kind: str, required: bool) -> dict[str, Any]:
    return {"type": kind} if required else {"type": kind, "nullable": True}


def _some(words: tuple[str, ...]) -> str:
    shown = ", ".join(words[:MOST_EXAMPLES])
    return shown if len(words) <= MOST_EXAMPLES else f"{shown} and {len(words) - MOST_EXAMPLES} more"
