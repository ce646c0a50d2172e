"""Looks at every source, for the poll: in a process of its own, since some sources must be read to say what they are."""

import json
from pathlib import Path

from tasks import stage
from tasks.params import Privacy, Sources
from tasks.sources.land import look


def look_at_sources(sources: Sources, privacy: Privacy, *, marks: Path) -> None:
    """`marks` holds what identifies each source's present content, by its name."""
    found = {name: look(name, source, privacy) for name, source in sources.items()}
    with stage.replacing(marks) as aside:
        aside.write_text(json.dumps(found))


if __name__ == "__main__":
    stage.main(look_at_sources)
