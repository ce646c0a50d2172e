"""The release that is made goes to the store, as the last step of `train` does it: a flow for the UI and for schedules."""

from pathlib import Path

from prefect import flow
from prefect.runtime import flow_run

from tasks import publish as effects
from tasks.artifacts import show_release
from tasks.claim import claim, tell
from tasks.publish import Release
from tasks.run import begin, name_run
from tasks.server import bury
from tasks.trouble import tell_failure, tell_recovery
from tasks.unlock import unlock


@flow(name="publish", flow_run_name=name_run, on_failure=[tell_failure], on_completion=[tell_recovery])
def publish(workspace: Path) -> Release:
    """Bring the bundle in models/release to the store, and production to it; nothing is trained.

    For a store or a remote that was down when the model was made, or that is another one now. A version that was rolled back is
    not brought back.

    Args:
        workspace: The folder with params.yaml and dvc.yaml; `.` is the one that was deployed.
    """
    workspace = begin(workspace)
    with claim(workspace) as dead:
        tell(workspace, flow_run.id)
        bury(dead, workspace)
        unlock(workspace)
        release = effects.publish(workspace)
        show_release(workspace, release)
        return release
