"""What privacy made of personal columns, in words: for the data report and the model card."""

from collections.abc import Collection

from tasks.params import Privacy


def in_words(privacy: Privacy) -> dict[str, str]:
    """Each column that params.yaml decides on, with what was done to it before a row was written anywhere."""
    return {
        **dict.fromkeys(privacy.drop, "dropped"),
        **dict.fromkeys(privacy.pseudonymise, "replaced by a keyed pseudonym (HMAC-SHA256)"),
        **{
            column: f"coarsened to its {to}" if isinstance(to, str) else f"coarsened to its first {to} characters"
            for column, to in privacy.coarsen.items()
        },
        **dict.fromkeys(privacy.keep, "looked personal, kept as it is"),
    }


def of_columns(privacy: Privacy, columns: Collection[str]) -> dict[str, str | int]:
    """What a service must know of these columns, to write none of them as it came: "pseudonym", or what it was coarsened to."""
    done = {**dict.fromkeys(privacy.pseudonymise, "pseudonym"), **privacy.coarsen}
    own = {named if named in columns else named.rpartition(".")[2]: what for named, what in done.items()}
    return {name: what for name, what in own.items() if name in columns}
