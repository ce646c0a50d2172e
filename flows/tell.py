"""A run that failed or crashed is told to people: started by Prefect's automation for it (tasks/automations.py), not by hand."""

from pathlib import Path
from uuid import UUID

from prefect import flow, get_client, get_run_logger

from tasks.alert import Alert, raise_alert
from tasks.trouble import alert_key, describe


@flow(name="tell", flow_run_name="tell of {run}")
def tell(run: UUID) -> tuple[str, ...]:
    """Tell people of a run that failed or crashed: what, where, since when, and what to do; gives the channels that took it.

    Args:
        run: The id of that run.
    """
    with get_client(sync_client=True) as client:
        found = client.read_flow_run(run)
        trouble = describe(client, found)
        name = client.read_flow(found.flow_id).name
    workspace = Path(found.parameters.get("workspace") or ".").resolve()
    text = "\n".join([trouble.what, *trouble.lines()])
    told = raise_alert(workspace, Alert(alert_key(name), trouble.title, text, "critical", trouble.page))
    log = get_run_logger()
    log.info("told over %s", ", ".join(told.sent) or f"no channel: {told.silent}")
    for channel, said in told.failed.items():
        log.error("%s: %s", channel, said)
    return told.sent
