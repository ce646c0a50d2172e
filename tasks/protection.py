"""What privacy made of personal columns, in words: for the data report and the model card."""

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
