"""Work pools of containers: what a platform is asked to run, filled in by Prefect's own code from the templates printed."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from prefect.utilities.schema_tools.validation import validate
from prefect.utilities.templating import apply_values

from flows.pools import KINDS
from tests.conftest import ROOT

COMMAND = "prefect flow-run execute"


def printed(*words: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-m", "flows.pools", *words], cwd=ROOT, capture_output=True, text=True, timeout=60)


def job(kind: str, **values: Any) -> dict[str, Any]:
    """What the pool's worker would ask its platform for."""
    template = json.loads(printed(kind).stdout)
    defaults = {name: one["default"] for name, one in template["variables"]["properties"].items() if one.get("default") is not None}
    validate({**defaults, **values}, template["variables"], raise_on_error=True)
    made = apply_values(template["job_configuration"], {**defaults, "command": COMMAND, **values})
    assert "{{" not in json.dumps(made)
    return dict(made)


def test_docker_runs_the_image_with_the_workspace_in_it() -> None:
    made = job("docker", env={"AWS_REGION": "eu-west-1"})
    assert made["image"] == "tidemill-flows"
    assert made["volumes"] == ["/srv/flights:/workspace"]
    assert made["env"] == {"AWS_REGION": "eu-west-1"}
    assert made["command"] == COMMAND
    assert made["privileged"] is False


def test_kubernetes_job_mounts_the_claim_and_asks_for_what_a_training_needs() -> None:
    made = job("kubernetes", memory_limit="16Gi")["job_manifest"]
    assert (made["apiVersion"], made["kind"]) == ("batch/v1", "Job")
    assert made["metadata"]["namespace"] == "tidemill"
    pod = made["spec"]["template"]["spec"]
    assert pod["serviceAccountName"] == "tidemill"
    [container] = pod["containers"]
    assert (container["image"], container["name"], container["args"]) == ("tidemill-flows", "prefect-job", COMMAND)
    assert container["resources"] == {"limits": {"memory": "16Gi"}, "requests": {"cpu": "2", "memory": "4Gi"}}
    assert {mount["name"] for mount in container["volumeMounts"]} == {volume["name"] for volume in pod["volumes"]}


def test_ecs_task_holds_the_image_its_volume_and_its_role() -> None:
    made = job("ecs")
    [container] = made["task_definition"]["containerDefinitions"]
    assert container["image"].endswith("/tidemill-flows:latest")
    assert container["mountPoints"][0]["sourceVolume"] == made["task_definition"]["volumes"][0]["name"]
    assert made["task_run_request"]["overrides"]["taskRoleArn"].endswith("role/tidemill-task")
    assert made["task_run_request"]["launchType"] == "FARGATE"
    assert (made["task_definition"]["cpu"], made["task_definition"]["memory"]) == (2048, 8192)


@pytest.mark.parametrize("kind", KINDS)
def test_variable_that_the_platform_does_not_have_is_named(kind: str, tmp_path: Path) -> None:
    file = tmp_path / "pools.yaml"
    file.write_text(f"{kind}: {{defaults: {{imagee: x}}}}")
    done = printed(kind, "--file", str(file))
    assert done.returncode == 2
    assert f"{kind}.defaults.imagee is no variable" in done.stderr
    assert "'image'" in done.stderr
    assert done.stdout == ""
    file.write_text("")
    assert printed(kind, "--file", str(file)).returncode == 2
