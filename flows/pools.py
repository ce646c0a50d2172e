"""Work pools for runs in containers: `python -m flows.pools docker > docker.json`, for `prefect work-pool create`."""

import argparse
import json
import sys
from importlib import resources
from pathlib import Path
from typing import Any

from ruamel.yaml import YAML

from flows.exits import EXITS
from tasks.core.errors import ParamsError

FILE = Path(__file__).parent.parent / "deployments/pools.yaml"
TEMPLATES = "prefect.server.api.collections_data.views", "aggregate-worker-metadata.json"
KINDS = ("docker", "kubernetes", "ecs")


def main() -> int:
    """Print the pool's base job template; returns the exit code."""
    parser = argparse.ArgumentParser(
        prog="python -m flows.pools",
        description="Prefect's job template of a work pool with the values of deployments/pools.yaml in it.",
        epilog=f"then: prefect work-pool create tidemill --type KIND --base-job-template FILE. {EXITS}",
    )
    parser.add_argument("kind", choices=KINDS)
    parser.add_argument("--file", type=Path, default=FILE, help="with the values (deployments/pools.yaml)")
    args = parser.parse_args()
    try:
        print(json.dumps(render(args.kind, args.file), indent=1))
    except ParamsError as error:
        print(f"error: {error}", file=sys.stderr)
        return error.exit_code
    return 0


def render(kind: str, file: Path) -> dict[str, Any]:
    """Prefect's base job template of the kind with the file's defaults; ParamsError for a variable that it does not have."""
    try:
        values = YAML(typ="safe").load(file.read_text())[kind]
    except (OSError, KeyError, TypeError) as error:
        raise ParamsError(f"{file}: has no values of {kind} ({error!r})") from error
    known = json.loads(resources.files(TEMPLATES[0]).joinpath(TEMPLATES[1]).read_text())
    template: dict[str, Any] = next(kinds[kind] for kinds in known.values() if kind in kinds)["default_base_job_configuration"]
    properties = template["variables"]["properties"]
    for name, value in values["defaults"].items():
        if name not in properties:
            raise ParamsError(f"{file}: {kind}.defaults.{name} is no variable of Prefect's template; known: {sorted(properties)}")
        properties[name]["default"] = value
    template["job_configuration"] = merge(template["job_configuration"], values.get("job") or {})
    return template


def merge(base: Any, more: Any) -> Any:
    """`base` with the keys of `more` in it, at any depth; of two lists the entries are merged by their place."""
    if isinstance(base, dict) and isinstance(more, dict):
        return {**base, **{key: merge(base[key], value) if key in base else value for key, value in more.items()}}
    if isinstance(base, list) and isinstance(more, list):
        return [*(merge(*pair) for pair in zip(base, more, strict=False)), *base[len(more) :], *more[len(base) :]]
    return more


if __name__ == "__main__":
    sys.exit(main())
