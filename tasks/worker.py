"""One of several processes that train a network together: `python -m tasks.worker FOLDER PIPE`, started by tasks/supervise.py.

It learns from TF_CONFIG which one it is, and tells through the pipe, line by line, that it lives, how often it has moved on, and
how it ended.
"""

import argparse
import json
import logging
import os
import sys
import threading
import time
from pathlib import Path

from tasks.core.errors import TidemillError
from tasks.stage import RUN_PID, die_with

BEAT_SECONDS = 1.0
LINGER_SECONDS = 1.0  # at the end, for the others to take the last sum from here


class Heart:
    """A thread that says every second that the process lives, and how often it has moved on; before TensorFlow is loaded, 0."""

    def __init__(self, pipe: int) -> None:
        self.pipe, self.moves = pipe, 0
        threading.Thread(target=self._beat, daemon=True).start()

    def moved(self) -> None:
        self.moves += 1

    def say(self, **what: object) -> None:
        os.write(self.pipe, f"{json.dumps(what)}\n".encode())  # one line in one write: no other thread's comes in between

    def _beat(self) -> None:
        while True:
            self.say(moves=self.moves)
            time.sleep(BEAT_SECONDS)


def main() -> None:
    """Exit with 0 when the network is fitted, with the error's code when it cannot be."""
    parser = argparse.ArgumentParser(prog="python -m tasks.worker")
    parser.add_argument("folder", type=Path)
    parser.add_argument("pipe", type=int)
    parser.add_argument("--keep", action="store_true", help="write the checkpoints, and show the progress")
    asked = parser.parse_args()
    heart = Heart(asked.pipe)
    threading.Thread(target=die_with, args=(int(os.environ[RUN_PID]),), daemon=True).start()
    logging.basicConfig(level=logging.INFO, stream=sys.stdout, format="%(message)s")
    logging.getLogger("tensorflow").setLevel(logging.ERROR)

    # Loaded under the eyes of the supervisor: it takes many seconds.
    from tasks.core.team import join_team
    from tasks.fit import Job, fit_job

    heart.say(loaded=True)
    try:
        team = join_team()
        job = Job.from_json(json.loads((asked.folder / "job.json").read_text()))
        fit_job(job, asked.folder, team, asked.keep, heart.moved)
        team.agree([0.0])
    except TidemillError as error:
        heart.say(kind=type(error).__name__, error=str(error))
        sys.exit(error.exit_code)
    heart.say(done=True)
    time.sleep(LINGER_SECONDS)
    os._exit(0)  # TensorFlow's own end waits for the others


if __name__ == "__main__":
    main()
