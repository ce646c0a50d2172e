"""How numbers are written: with a point or a comma before the decimals, in thousands, with zeros in front; decided from counts."""

from dataclasses import dataclass
from typing import Literal

from tasks.engine import literal, short

Style = Literal["point", "comma"]

# RE2's words. A separator of thousands is the same in all of a value; the apostrophes and spaces are those that locales use.
_GROUPS = ("'", "\u2019", " ", "\u00a0", "\u202f")


def _grammar(decimal: str, thousands: str) -> str:
    plain = rf"([0-9]+([{decimal}][0-9]*)?|[{decimal}][0-9]+)([eE][-+]?[0-9]+)?"
    grouped = "|".join(f"([{group}][0-9]{{3}})+" for group in _GROUPS)
    # A nought before one group is whole: 0.555 is less than one, whichever mark the others have.
    thousand = rf"([1-9]|[0-9]{{2,3}})[{thousands}][0-9]{{3}}|[0-9]{{1,3}}([{thousands}][0-9]{{3}}){{2,}}"
    return rf" *[-+]?({plain}|([0-9]{{1,3}}({grouped})|{thousand})([{decimal}][0-9]+)?) *"


INTEGER = r" *[-+]?(0|[1-9][0-9]{0,17}) *"
DECIMAL = r" *[-+]?((0|[1-9][0-9]{0,17})([.][0-9]*)?|[.][0-9]+)([eE][-+]?[0-9]{1,2})? *"  # none beyond DOUBLE
GRAMMAR: dict[Style, str] = {"point": _grammar(".", ","), "comma": _grammar(",", ".")}
HUGE = f"[-+0-9.,{''.join(_GROUPS)}]*[eE][+]?[0-9]{{3,}} *"  # what may be too large for DOUBLE
LONG = f"[-+0-9,{''.join(_GROUPS)}]{{19,}}|[-+ ]*[0-9]{{1,3}}([.][0-9]{{3}}){{6,}} *"  # what may be too long for BIGINT
WORD = r"(?i) *[-+]?(nan|inf|infinity) *"  # what DuckDB takes for a number
THOUSANDS = f".*[0-9][,{''.join(_GROUPS)}][0-9].*"
_ZEROS = (  # of codes, not of numbers: "00123", "030 123 456", "040.555.777"
    "0[0-9]+([.,][0-9]*)?",
    *(f"0[0-9]{{0,2}}([{group}][0-9]{{3}})+([.,][0-9]+)?" for group in _GROUPS),
    *(
        f"0([0-9]{{1,2}}[{group}]|[0-9]{{0,2}}[{group}][0-9]{{3}}[{group}])[0-9]{{3}}([{group}][0-9]{{3}})*([.,][0-9]+)?"
        for group in ".,"
    ),
)
HINT = "[^0-9.,]{0,6}[0-9.]*[0-9],[0-9]{1,2}[^0-9.,]{0,12}"  # a quantity with a decimal comma: "1,5 kg", "EUR 2,50"
ZEROS = f" *[-+]?({'|'.join(_ZEROS)}) *"


@dataclass(frozen=True)
class Counts:
    """How many of a column's present values are written in which way."""

    values: int
    point: int
    comma: int
    words: int
    zeros: int
    long: int  # integers beyond 64 bits
    commas: int
    points: int
    exponents: int
    infinite: int  # beyond DOUBLE

    def fits(self, style: Style) -> bool:
        return (self.point if style == "point" else self.comma) + self.words == self.values

    @property
    def best(self) -> int:
        """Values that are numbers in the style that has more of them."""
        return max(self.point, self.comma) + self.words

    @property
    def decides(self) -> Style | None:
        """The only style that the column fits."""
        if self.fits("point") == self.fits("comma"):
            return None
        return "point" if self.fits("point") else "comma"

    @property
    def speaks(self) -> Style | None:
        """The style of the column that is that of the whole file: one of codes says nothing of numbers."""
        return None if self.zeros else self.decides

    @property
    def may_be_thousands(self) -> bool:
        """Whether all values have points that a file with decimal commas would have before thousands."""
        return self.fits("point") and self.fits("comma") and self.points > 0 and not self.commas

    def style(self, told: Style | None, elsewhere: set[Style], *, hinted: bool) -> Style | None:
        """The style to read the column in; None when it fits none, or both and nothing tells which.

        `elsewhere` has the styles of the file's other columns, `hinted` says that its texts have decimal commas.
        """
        if told is not None:
            return told if self.fits(told) else None
        if self.decides:
            return self.decides
        if not self.fits("point"):
            return None
        if not self.commas and not self.points:
            return "point"
        if len(elsewhere) == 1:
            (only,) = elsewhere
            return only if self.commas or only == "point" else None
        return None if self.commas or elsewhere or hinted else "point"

    def whole(self, style: Style) -> bool:
        """Whether all values are integers."""
        return not self.exponents and not self.words and not (self.points if style == "point" else self.commas)


def counting(column: str) -> list[str]:
    """SQL that counts the values by how they are written, in the order of Counts' fields."""
    value = short(column)
    digits = f"TRY_CAST(regexp_replace({value}, '[^0-9+-]', '', 'g') AS BIGINT)"
    infinite = f"isinf(TRY_CAST(replace({value}, ',', '.') AS DOUBLE))"
    conditions = [
        *(f"regexp_full_match({value}, {literal(pattern)})" for pattern in (GRAMMAR["point"], GRAMMAR["comma"], WORD, ZEROS)),
        f"CASE WHEN regexp_full_match({value}, {literal(LONG)}) THEN {digits} IS NULL END",
        *(f"contains({value}, '{mark}')" for mark in ",."),
        f"contains(lower({value}), 'e')",
        f"CASE WHEN regexp_full_match({value}, {literal(HUGE)}) THEN {infinite} END",
    ]
    return [f"count({column})", *(f"count(*) FILTER (WHERE {condition})" for condition in conditions)]


def converted(column: str, style: Style, whole: bool) -> str:
    """SQL of the number that the text is."""
    thousands, decimal = (",", ".") if style == "point" else (".", ",")
    groups = "".join((*_GROUPS, thousands))
    plain = f"translate({column}, {literal(groups)}, '')"
    if decimal == ",":
        plain = f"replace({plain}, ',', '.')"
    return f"CAST({plain} AS {'BIGINT' if whole else 'DOUBLE'})"
