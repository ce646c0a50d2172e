"""What the service needs and nothing else, for its image: `python slim.py SOURCE ROOT`.

SOURCE is the repository; ROOT/opt/tidemill holds the packages of serving/requirements.lock. Afterwards it also holds serving/ and
the modules of tasks/ that it imports, and no longer what no request can reach: tests, headers, compilers and accelerators of other
machines, the clients of other services. Bytecode of what the service loads stands beside it, that of Python's modules in ROOT/usr.
"""

import ast
import gzip
import importlib
import py_compile
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

HOME = Path("opt/tidemill")
# Nothing of these is opened by a request, or by an import of what is.
UNUSED = (
    "bin",
    "**/__pycache__",
    "**/tests",
    "**/*.pyi",
    "**/*.pyx",
    "**/*.pxd",
    "**/*.pxi",
    "**/*.c",
    "**/*.a",
    "**/*.h",
    "*.dist-info/RECORD",
    # LiteRT: other runtimes and interfaces, compilers and accelerators of phones, converters.
    "ai_edge_litert/aot",
    "ai_edge_litert/tflite",
    "ai_edge_litert/tools",
    "ai_edge_litert/vendors",
    "ai_edge_litert/libLiteRt*.so",
    "ai_edge_litert/schema_py_generated.py",
    "ai_edge_litert/*_pb2.py",
    # Pillow: fonts, colour profiles, windows, and the readers of formats that tasks.core.images does not take.
    "PIL/_avif.*.so",
    "PIL/_imagingcms.*.so",
    "PIL/_imagingft.*.so",
    "PIL/_imagingtk.*.so",
    "pillow.libs/libavif*",
    "pillow.libs/libfreetype*",
    "pillow.libs/libharfbuzz*",
    "pillow.libs/liblcms2*",
    # boto3: what a person at a keyboard reads, and the resources, which are another interface.
    "boto3/examples",
    "boto3/data/*",
    # Swagger UI in its other builds.
    "swagger_ui_bundle/vendor/*/*.map",
    "swagger_ui_bundle/vendor/*/swagger-ui-es-*",
)
# Of botocore's descriptions of four hundred services: the store's, and those by which a role is taken.
SERVICES = {"s3", "sts", "sso", "sso-oidc"}


def main() -> None:
    source, root = Path(sys.argv[1]), Path(sys.argv[2])
    target = root / HOME
    copy_code(source, target)
    write_metadata(source / "pyproject.toml", target)
    for pattern in UNUSED:
        for path in target.glob(pattern):
            shutil.rmtree(path) if path.is_dir() else path.unlink()
    for path in (target / "botocore/data").iterdir():
        if path.is_dir() and path.name not in SERVICES:
            shutil.rmtree(path)
    pack(target / "botocore/data/endpoints.json")
    for path in target.rglob("*.so*"):
        subprocess.run(["strip", "--strip-unneeded", str(path)], check=True)
    for module in load(target):
        compile_module(module, root)


def copy_code(source: Path, target: Path) -> None:
    """serving/ is there whole, and every module of tasks/ that it imports, directly or not."""
    shutil.copytree(source / "serving", target / "serving", ignore=shutil.ignore_patterns("__pycache__", "*.lock"))
    waiting, seen = sorted((source / "serving").glob("*.py")), set[Path]()
    while waiting:
        path = waiting.pop()
        if path in seen:
            continue
        seen.add(path)
        if path.is_relative_to(source / "tasks"):
            copy = target / path.relative_to(source)
            copy.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(path, copy)
        waiting += [file for name in imports(path) for file in files(source, name)]


def imports(path: Path) -> set[str]:
    """Every module, and every name of one, that the file's statements import."""
    found: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            found |= {node.module, *(f"{node.module}.{alias.name}" for alias in node.names)}
    return found


def files(source: Path, module: str) -> list[Path]:
    """The files of ours that importing the module runs: its own and its packages'; none of another's module."""
    parts = module.split(".")
    if parts[0] not in ("serving", "tasks"):
        return []
    packages = [source.joinpath(*parts[:i], "__init__.py") for i in range(1, len(parts) + 1)]
    return [path for path in (*packages, source.joinpath(*parts).with_suffix(".py")) if path.is_file()]


def write_metadata(pyproject: Path, target: Path) -> None:
    """importlib.metadata finds the project's name and version."""
    project = tomllib.loads(pyproject.read_text(encoding="utf-8"))["project"]
    folder = target / f"{project['name']}-{project['version']}.dist-info"
    folder.mkdir()
    (folder / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {project['name']}\nVersion: {project['version']}\n")


def pack(path: Path) -> None:
    """The file is gzipped, which botocore reads as well."""
    path.with_name(f"{path.name}.gz").write_bytes(gzip.compress(path.read_bytes(), mtime=0))
    path.unlink()


def load(target: Path) -> list[Path]:
    """The source of every module that the service loads, when all of it is used."""
    sys.dont_write_bytecode = True
    sys.path.insert(0, str(target))
    for path in sorted((target / "serving").glob("*.py")):
        if path.stem not in ("__init__", "lambda_handler"):  # the latter starts the service
            importlib.import_module(f"serving.{path.stem}")
    import boto3
    from PIL import Image
    from uvicorn.loops import auto

    auto.auto_loop_factory()
    boto3.client("s3", region_name="us-east-1")
    Image.init()
    found = [module.__spec__.origin for module in sys.modules.values() if getattr(module, "__spec__", None)]
    return sorted(Path(origin) for origin in found if origin and origin.endswith(".py"))


def compile_module(module: Path, root: Path) -> None:
    """Its bytecode is where Python looks for it in the image; goes by the source's hash, so that the same sources make the same."""
    place = module.relative_to(root) if module.is_relative_to(root) else module.relative_to("/")
    made = root / place.parent / "__pycache__" / f"{module.stem}.{sys.implementation.cache_tag}.pyc"
    unchecked = py_compile.PycInvalidationMode.UNCHECKED_HASH
    py_compile.compile(str(module), cfile=str(made), dfile=f"/{place}", doraise=True, invalidation_mode=unchecked)


if __name__ == "__main__":
    main()
