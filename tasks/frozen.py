"""Reads the frozen schema: the contract that people change, in git."""

from pathlib import Path

from google.protobuf import text_format
from tensorflow_metadata.proto.v0 import schema_pb2

from tasks.core.errors import DataError


def load_schema(path: Path) -> schema_pb2.Schema:
    """The frozen schema; DataError when the file is none."""
    remedy = "mend it, take it back from git, or delete it to infer it anew"
    try:
        return text_format.Parse(path.read_text(encoding="utf-8"), schema_pb2.Schema())
    except text_format.ParseError as error:
        said = " ".join(str(error).split(" : ")[-1].split())
        raise DataError(f"{path}:{error.GetLine()}: no schema: {said}; {remedy}") from error
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"{path} is no schema: {error}; {remedy}") from error
