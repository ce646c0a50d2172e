"""Reads the frozen schema: the contract that people change, in git."""

from pathlib import Path

from google.protobuf import text_format
from tensorflow_metadata.proto.v0 import schema_pb2

from tasks.core.errors import DataError


def load_schema(path: Path) -> schema_pb2.Schema:
    """The frozen schema; DataError when the file is none."""
    try:
        return text_format.Parse(path.read_text(), schema_pb2.Schema())
    except (OSError, UnicodeDecodeError, text_format.ParseError) as error:
        raise DataError(f"{path} is no schema: {error}; take it back from git, or delete it to infer it anew") from error
