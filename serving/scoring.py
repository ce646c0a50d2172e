"""Whole files scored at once: Arrow streams or Parquet in, the answers as either out, a piece in memory at a time.

For `serving.batch_child` alone: a file can be made to need any amount of memory, or to kill the process that reads it.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
from arro3.core import Field, RecordBatch, RecordBatchReader, Schema
from arro3.io import read_ipc_stream, read_parquet, write_ipc_stream, write_parquet

from serving.arrow import ID, answer_columns, check_schema, raw_columns
from serving.batch import Format
from serving.bundle import Bundle
from serving.request import RequestError

NAMES: dict[Format, str] = {"arrow": "Arrow stream", "parquet": "Parquet file"}
PIECE_ROWS, PIECE_IMAGES = 8192, 64
GROUP_ROWS = 131_072  # of a row group of the answers


def score_file(
    bundle: Bundle,
    source: Path,
    taken: Format,
    target: Path,
    given: Format,
    seen: Callable[[int], None] = lambda rows: None,
) -> int:
    """The target holds an answer for each row of the source, in its order, beside its `id` if it has one; returns the rows.

    RequestError 400 for a source that is no such file, 422 for one whose columns do not fit. `seen` is told the rows done until
    now. Of a failure the target holds a part.
    """
    reader = _opened(source, taken)
    check_schema(reader.schema, bundle.encoder)
    done, wrong = 0, None

    def pieces() -> Iterator[RecordBatch]:
        nonlocal done, wrong
        try:
            for batch in _batches(reader, PIECE_IMAGES if bundle.encoder.images else PIECE_ROWS, taken):
                yield score(bundle, batch, done)
                done += batch.num_rows
                seen(done)
        except RequestError as error:  # arro3 would tell of it in words of its own
            wrong = error
            raise

    answers = RecordBatchReader.from_batches(answer_schema(bundle, reader.schema), pieces())
    try:
        if given == "parquet":
            write_parquet(answers, target, compression="zstd(1)", max_row_group_size=GROUP_ROWS)
        else:
            write_ipc_stream(answers, target, compression=None)  # which old readers do not know of few rows
    except BaseException as error:
        if wrong is not None:
            raise wrong from None
        if not _is_of_rust(error):
            raise
        raise OSError(f"the answers cannot be written: {_said(error)}") from error
    return done


def score(bundle: Bundle, batch: RecordBatch, start: int) -> RecordBatch:
    """The answers to the rows of the batch, which begins at row `start` of its file."""
    columns = {ID: batch.column(ID)} if ID in batch.schema.names else {}
    scores = bundle.network(bundle.encoder.encode(raw_columns(batch, bundle.encoder, start)))
    return RecordBatch.from_pydict({**columns, **answer_columns(bundle.encoder.target, scores)})


def answer_schema(bundle: Bundle, schema: Schema) -> Schema:
    """The columns that answers to a file of these columns have."""
    outputs = bundle.encoder.target.outputs
    none = answer_columns(bundle.encoder.target, np.zeros((0,) if outputs == 1 else (0, outputs), np.float32))
    given = [schema.field(ID)] if ID in schema.names else []
    return Schema([*given, *(Field(name, array.type) for name, array in none.items())])


def _opened(source: Path, taken: Format) -> RecordBatchReader:
    with _told(taken):
        return read_parquet(source, batch_size=PIECE_ROWS) if taken == "parquet" else read_ipc_stream(source)


def _batches(reader: RecordBatchReader, most: int, taken: Format) -> Iterator[RecordBatch]:
    """The rows in batches of `most` at most; RequestError 400 where the file breaks off."""
    while True:
        with _told(taken):
            try:
                batch = reader.read_next_batch()
            except StopIteration:
                return
        for start in range(0, batch.num_rows, most):
            yield batch.slice(start, min(most, batch.num_rows - start))


@contextmanager
def _told(taken: Format) -> Iterator[None]:
    """What arro3 has against a file, as RequestError 400."""
    try:
        yield
    except BaseException as error:
        if not _is_of_rust(error):
            raise
        raise RequestError(400, f"no {NAMES[taken]} that can be read to its end: {_said(error)}") from error


def _is_of_rust(error: BaseException) -> bool:
    """Whether arro3 raised it: Exception itself, or where Rust gives up a BaseException that cannot be named."""
    return isinstance(error, Exception) or type(error).__name__ == "PanicException"


def _said(error: BaseException) -> str:
    told = str(error).removeprefix("called `Result::unwrap()` on an `Err` value: ").strip()
    return told.partition("\n")[0][:300] or type(error).__name__
