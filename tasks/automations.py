"""Prefect's automations as code: what the server does by itself when runs die, fail, or never begin.

That drift retrains stands with the deployment `retrain` in deployments/prefect.yaml.
"""

from datetime import timedelta

from prefect import get_client
from prefect.client.orchestration import SyncPrefectClient
from prefect.client.schemas.objects import StateType
from prefect.events.actions import ChangeFlowRunState, RunDeployment
from prefect.events.schemas.automations import AutomationCore, EventTrigger, Posture
from prefect.exceptions import ObjectNotFound

from tasks.server import HEARTBEAT_SECONDS

PENDING_SECONDS = 60  # a process that begins takes about five
FLOWS = ("train", "monitor", "retrain", "rollout", "publish")  # whose failures are told: not that of the telling
ENDS = ("Completed", "Failed", "Cancelled", "Crashed", "TimedOut")
ANY_RUN = {"prefect.resource.id": ["prefect.flow-run.*"]}
RUN = {"prefect.resource.id"}
TELLER = "tell/tell"


def zombies() -> AutomationCore:
    """A run whose heartbeat stops is Crashed: nobody has to come and look."""
    return AutomationCore(
        name="tidemill: a run without heartbeat is Crashed",
        trigger=EventTrigger(
            after={"prefect.flow-run.heartbeat"},
            expect={"prefect.flow-run.heartbeat", *(f"prefect.flow-run.{state}" for state in ENDS)},
            match=ANY_RUN,
            for_each=RUN,
            posture=Posture.Proactive,
            threshold=1,
            within=timedelta(seconds=3 * HEARTBEAT_SECONDS),
        ),
        actions=[ChangeFlowRunState(state=StateType.CRASHED, message="no heartbeat for 90 seconds: its process is gone")],
    )


def stillborn(pool: str) -> AutomationCore:
    """A run of the pool that a worker took and that did not begin, since the worker died, waits for a worker again."""
    return AutomationCore(
        name="tidemill: a run whose worker died before it began is scheduled again",
        trigger=EventTrigger(
            after={"prefect.flow-run.Pending"},
            expect={"prefect.flow-run.Running", "prefect.flow-run.Scheduled", *(f"prefect.flow-run.{state}" for state in ENDS)},
            match=ANY_RUN,
            match_related={"prefect.resource.role": "work-pool", "prefect.resource.name": pool},
            for_each=RUN,
            posture=Posture.Proactive,
            threshold=1,
            within=timedelta(seconds=PENDING_SECONDS),
        ),
        actions=[ChangeFlowRunState(state=StateType.SCHEDULED, message="its worker died before it began")],
    )


def failures(client: SyncPrefectClient) -> AutomationCore | None:
    """A run of ours that failed or crashed is told by an alert; none where the deployment that tells is missing."""
    try:
        teller = client.read_deployment_by_name(TELLER)
    except ObjectNotFound:
        return None
    return AutomationCore(
        name="tidemill: a failed run raises an alert",
        trigger=EventTrigger(
            expect={"prefect.flow-run.Failed", "prefect.flow-run.Crashed", "prefect.flow-run.TimedOut"},
            match=ANY_RUN,
            match_related={"prefect.resource.role": "flow", "prefect.resource.name": list(FLOWS)},
            for_each=RUN,
            posture=Posture.Reactive,
            threshold=1,
            within=timedelta(0),
        ),
        actions=[
            RunDeployment(deployment_id=teller.id, parameters={"run": {"__prefect_kind": "jinja", "template": "{{ flow_run.id }}"}})
        ],
    )


def declare(*automations: AutomationCore) -> None:
    """The server has each of the automations, as they are here; one that people switched off stays off."""
    with get_client(sync_client=True) as client:
        for wanted in automations:
            found = client.read_automations_by_name(wanted.name)
            if not found:
                client.create_automation(wanted)
            elif (found[0].trigger, found[0].actions) != (wanted.trigger, wanted.actions):
                client.update_automation(found[0].id, wanted.model_copy(update={"enabled": found[0].enabled}))
            for copy in found[1:]:  # of two that were declared at once
                client.delete_automation(copy.id)


def declare_all(pool: str) -> None:
    """The server has all of them, for the work pool and its deployments."""
    with get_client(sync_client=True) as client:
        told = failures(client)
    declare(zombies(), stillborn(pool), *([told] if told else []))
