"""The errors that a user meets: one message each, which says what was found, what was expected and what to do."""


class TidemillError(Exception):
    """Ends a run with its message and its exit code, never with a traceback."""

    exit_code = 1


class ParamsError(TidemillError):
    """A value in params.yaml or on the command line is not allowed; nothing was started."""

    exit_code = 2


class DataError(TidemillError):
    """The data breaks its contract; nothing was written over what was there."""

    exit_code = 3


class PersonalError(DataError):
    """Columns look personal and nobody decided what becomes of them; `columns` gives the reason for each by name."""

    def __init__(self, message: str, columns: dict[str, str]) -> None:
        super().__init__(message)
        self.columns = columns


class DivergedError(TidemillError):
    """A loss was no longer a number; nothing was written."""

    exit_code = 3


class GateError(TidemillError):
    """No candidate is good enough; nothing was released."""

    exit_code = 4
