"""What a run that released leaves on its page: a summary, the table of candidates, the picture of quality, and links to reports."""

import base64
import csv
import json
import os
from pathlib import Path

from prefect.artifacts import create_link_artifact, create_markdown_artifact, create_table_artifact
from prefect.events import emit_event
from ruamel.yaml import YAML

from tasks.cost import read_cost
from tasks.publish import EVALUATION, Release, describe

REPORTS_URL = "TIDEMILL_REPORTS_URL"  # where flows.up serves the workspace's reports
CANDIDATES, PICTURE = Path("reports/pareto.csv"), Path("reports/quality.png")
PAGES = {
    "data.html": "the data: every column, what is missing, how far it drifted, the quarantine",
    "tuning.html": "the search: what was tried, what it found, what more of it would bring",
}
WHAT = "quality of every candidate against latency and size"
MOST_PICTURE = 1_000_000  # bytes: the picture stands in Prefect's database


def show_release(workspace: Path, release: Release) -> None:
    """The run's page holds what was released and how it compares; the event `tidemill.released` tells others of it."""
    create_markdown_artifact(summary(workspace, release), key="summary", description=f"{release.name} {release.version}")
    if (workspace / CANDIDATES).exists():
        with (workspace / CANDIDATES).open(newline="") as file:
            create_table_artifact(list(csv.DictReader(file)), key="candidates", description="every candidate on the test part")
    if (workspace / PICTURE).exists() and (workspace / PICTURE).stat().st_size <= MOST_PICTURE:
        # In Markdown: below an image artifact stands its whole URL, and one of a file would show the picture of a later run.
        picture = base64.b64encode((workspace / PICTURE).read_bytes()).decode()
        create_markdown_artifact(f"![quality](data:image/png;base64,{picture})", key="quality", description=WHAT)
    for page, what in PAGES.items():
        if (workspace / "reports" / page).exists():
            create_link_artifact(link(workspace, page), link_text=page, key=page.replace(".", "-"), description=what)
    emit_event(
        "tidemill.released",
        resource={"prefect.resource.id": f"tidemill.model.{release.name}", "prefect.resource.name": release.name},
        payload={"workspace": str(workspace), "version": release.version, "chosen": release.chosen, "served": release.served},
    )


def link(workspace: Path, page: str) -> str:
    """Where a browser finds a page of the workspace's reports: at flows.up's address, else in the file system."""
    served = os.environ.get(REPORTS_URL)
    return f"{served}/{page}" if served else (workspace / "reports" / page).resolve().as_uri()


def summary(workspace: Path, release: Release) -> str:
    """What was released, what each stage cost when it last ran, and where the reports are, in Markdown."""
    said = describe(workspace, release) if (workspace / EVALUATION).exists() else f"released {release.name} {release.version}"
    lines = [f"**{said}**", "", "| stage | last run, s | CPU s | peak MB |", "|---|--:|--:|--:|"]
    costs = read_cost(workspace)["stages"]
    graph = YAML(typ="safe").load((workspace / "dvc.yaml").read_text())["stages"]
    for stage, cost in ((stage, costs[stage]) for stage in graph if stage in costs):
        lines.append(f"| {stage} | {cost['wall_s']:.1f} | {cost['cpu_s']:.1f} | {cost['peak_mb']:,} |")
    snapshot = workspace / "reports/snapshot.json"
    if snapshot.exists():
        lines += ["", f"{json.loads(snapshot.read_text())['rows']:,} rows; workspace `{workspace}`"]
    lines += [
        "",
        *(
            f"- [{page}]({link(workspace, page)}): {what}"
            for page, what in PAGES.items()
            if (workspace / "reports" / page).exists()
        ),
    ]
    return "\n".join(lines)
