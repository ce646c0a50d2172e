"""Changes to a schema's text that leave every other byte of it as a person wrote it."""

import re
from dataclasses import dataclass

from google.protobuf import text_format
from tensorflow_metadata.proto.v0 import schema_pb2

from tasks.core.change import Edit
from tasks.core.evolution import Difference

# What the format is made of, as far as finding the end of a block goes: strings and comments may hold braces.
TOKEN = re.compile(r'"(?:\\.|[^"\\\n])*"' + r"|'(?:\\.|[^'\\\n])*'|#[^\n]*|[{}<>]|[A-Za-z_]\w*|\s+|.", re.DOTALL)


@dataclass(frozen=True)
class Block:
    """`kind { ... }` at the top of the text, from `start` to before `end`."""

    kind: str
    start: int
    end: int


def find_blocks(text: str) -> list[Block]:
    """The text's blocks in order; the text is one that parses."""
    found: list[Block] = []
    depth, kind, start = 0, "", 0
    for token in TOKEN.finditer(text):
        word = token[0]
        if word in "{<" and depth == 0:
            depth = 1
        elif word in "{<":
            depth += 1
        elif word in "}>":
            depth -= 1
            if depth == 0:
                found.append(Block(kind, start, token.end()))
        elif depth == 0 and re.match(r"[A-Za-z_]", word):
            kind, start = word, token.start()
    return found


def find_edits(text: str, schema: schema_pb2.Schema, difference: Difference) -> list[Edit]:
    """What of the schema's text has to change so that it allows the difference."""
    blocks = find_blocks(text)
    features = [block for block in blocks if block.kind == "feature"]
    places = {_name(text, block): block for block in features}
    own = places.get(difference.column)
    if difference.feature is None:
        assert own
        return [_cut(text, own), *_drop_domain(text, blocks, schema, difference.column)]
    wanted = schema_pb2.Feature()
    wanted.CopyFrom(difference.feature)
    if own is None:
        end = features[-1].end if features else len(text)
        _put_words(wanted, difference.words)
        return [(end, end, "\n" + _rendered(wanted))]

    old = next(feature for feature in schema.feature if feature.name == difference.column)
    edits: list[Edit] = []
    if wanted.domain and wanted.domain == old.domain:
        new = [word for word in difference.words or () if word not in _listed(schema, wanted.domain)]
        if new and _users(schema, wanted.domain) == 1:
            edits += _add_words(text, blocks, wanted.domain, new)
        elif new:
            _put_words(wanted, difference.words)
    else:
        _put_words(wanted, difference.words)
        edits += _drop_domain(text, blocks, schema, difference.column)
    return [*edits, (own.start, own.end, _rendered(wanted))] if wanted != old else edits


def _name(text: str, block: Block) -> str:
    parsed = text_format.Parse(text[block.start : block.end], schema_pb2.Schema())
    return str(next(iter(getattr(parsed, block.kind))).name)


def _users(schema: schema_pb2.Schema, domain: str) -> int:
    return sum(feature.WhichOneof("domain_info") == "domain" and feature.domain == domain for feature in schema.feature)


def _put_words(wanted: schema_pb2.Feature, words: tuple[str, ...] | None) -> None:
    """The feature holds its list itself."""
    if words is not None:
        wanted.string_domain.name = wanted.name
        wanted.string_domain.value[:] = words


def _rendered(feature: schema_pb2.Feature) -> str:
    return str(text_format.MessageToString(schema_pb2.Schema(feature=[feature]), as_utf8=True)).rstrip("\n")


def _cut(text: str, block: Block) -> Edit:
    """The block and the line break behind it are gone."""
    return (block.start, block.end + (text[block.end : block.end + 1] == "\n"), "")


def _domain_block(text: str, blocks: list[Block], domain: str) -> Block | None:
    return next((block for block in blocks if block.kind == "string_domain" and _name(text, block) == domain), None)


def _drop_domain(text: str, blocks: list[Block], schema: schema_pb2.Schema, column: str) -> list[Edit]:
    """The list of words that only this column uses is gone."""
    old = next(feature for feature in schema.feature if feature.name == column)
    block = _domain_block(text, blocks, old.domain) if old.domain and _users(schema, old.domain) == 1 else None
    return [_cut(text, block)] if block else []


def _listed(schema: schema_pb2.Schema, domain: str) -> set[str]:
    return set(next((one.value for one in schema.string_domain if one.name == domain), ()))


def _add_words(text: str, blocks: list[Block], domain: str, words: list[str]) -> list[Edit]:
    """The words stand at the end of the list."""
    block = _domain_block(text, blocks, domain)
    assert block
    lines = str(text_format.MessageToString(schema_pb2.StringDomain(value=words), as_utf8=True)).splitlines()
    return [(block.end - 1, block.end - 1, "".join(f"  {line}\n" for line in lines))]
