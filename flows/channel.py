"""Which release is served, as a flow for the UI and for automations; the command is flows.rollout, which needs no server."""

from pathlib import Path
from typing import Annotated, Literal

from prefect import flow
from pydantic import Field

from tasks.core.errors import ParamsError
from tasks.move import Moved, move
from tasks.run import begin, name_run
from tasks.trouble import tell_failure, tell_recovery
from tasks.unlock import unlock

Action = Literal["promote", "canary", "shadow", "close canary", "close shadow", "rollback"]


Header = Annotated[str, Field(pattern=r"^([A-Za-z0-9-]+: \S.*)?$", examples=["x-canary: yes"])]


@flow(name="rollout", flow_run_name=name_run, on_failure=[tell_failure], on_completion=[tell_recovery])
def rollout(
    workspace: Path,
    action: Action,
    version: Annotated[str, Field(pattern=r"^[0-9a-z]*$", max_length=64)] = "",
    share: Annotated[float, Field(ge=0, le=1)] = 0.0,
    header: Header = "",
    why: Annotated[str, Field(max_length=1000)] = "",
) -> Moved:
    """Move a channel: what production, the canary or the shadow serves.

    Args:
        workspace: The folder with params.yaml; `.` is the one that was deployed.
        action: promote: production serves the version. canary, shadow: a share of the requests sees it. close: that is over.
            rollback: production serves again what it served before.
        version: Its first characters, or the name of the channel that serves it. Not for close and rollback.
        share: Of the requests, for canary and shadow; 0: release.canary.share, of a shadow all.
        header: Requests with this header go there, whatever the share.
        why: For the history.
    """
    workspace = begin(workspace)
    if action in ("promote", "canary", "shadow") and not version:
        raise ParamsError(f"{action} needs a version; look for one with `python -m flows.rollout list`")
    unlock(workspace)
    return move(workspace, action, version, share or None, header or None, why)
