"""The image of deployments/Dockerfile, built and run by Debian's Docker: small, hardened, and as right as the service outside."""

import base64
import io
import json
import os
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import tensorflow as tf
import yaml
from PIL import Image

from tasks.cloud.storage import open_storage
from tasks.core.encoder import ImageColumn
from tasks.releases import Releases
from tests import s3
from tests.conftest import ROOT, free_port
from tests.serving.stores import make_bundle, network, promote
from tests.serving.test_bundle import BACKGROUND, ENCODER, GOLDEN, WANTED, model, record, sigmoid  # noqa: F401  the fixture
from tests.serving.test_follow import total
from tests.serving.test_gateway import Lambda, event
from tests.serving.test_server import PATH, ROW, ask, bundle  # noqa: F401  the fixture

pytestmark = pytest.mark.slow
HARDENED = ["--read-only", "--tmpfs", "/tmp", "--cap-drop", "ALL", "--security-opt", "no-new-privileges", "--memory", "512m"]
MOST_BYTES = 150_000_000  # of the layers above the base
BASE = Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache")) / "tidemill-tests/trixie.tar"
# What a machine needs to reach its package registries, which a base image of a company would hold too.
REACH = ("/etc/pip.conf", "/usr/local/share/ca-certificates/*.crt", "/etc/apt/apt.conf.d/99*")
UNUSED = ("usr/share/doc", "usr/share/man", "usr/share/locale", "usr/share/info", "var/lib/apt/lists", "var/cache/apt", "var/log")


def make_base() -> None:
    """A Debian of the kind of debian:trixie-slim, kept from one run of the tests to the next."""
    BASE.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=BASE.parent) as folder:
        root = Path(folder) / "root"
        subprocess.run(["debootstrap", "--variant=minbase", "trixie", str(root)], check=True, capture_output=True, timeout=400)
        for name in UNUSED:
            shutil.rmtree(root / name, ignore_errors=True)
            (root / name).mkdir()
        for path in (path for pattern in REACH for path in Path("/").glob(pattern[1:])):
            (root / path.relative_to("/")).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(path, root / path.relative_to("/"))
        partial = BASE.with_suffix(".partial")
        subprocess.run(["tar", "-C", str(root), "-cf", str(partial), "."], check=True)
        partial.replace(BASE)


@dataclass(frozen=True)
class Docker:
    """A daemon of its own, without networks: containers see the loopback of this machine."""

    socket: Path

    def __call__(self, *words: str, timeout: float = 600) -> subprocess.CompletedProcess[str]:
        environment = {**os.environ, "DOCKER_BUILDKIT": "0", "DOCKER_HOST": f"unix://{self.socket}"}
        return subprocess.run(["docker", *words], capture_output=True, text=True, timeout=timeout, env=environment)

    def do(self, *words: str) -> str:
        done = self(*words)
        assert done.returncode == 0, " ".join(words) + "\n" + done.stdout[-5000:] + done.stderr[-5000:]
        return done.stdout.strip()

    @contextmanager
    def run(self, *words: str) -> Iterator[tuple[str, int]]:
        """The container's id and the port that the service in it answers on; words are options, the image, and more flags."""
        port = free_port()
        name = self.do("run", "--detach", "--network", "host", *HARDENED, *words, "--host", "127.0.0.1", "--port", str(port))
        try:
            deadline = time.monotonic() + 60
            while ask(port, "GET", "/readyz")[0] != 200:
                assert self.do("inspect", "--format", "{{.State.Running}}", name) == "true", self("logs", name)
                assert time.monotonic() < deadline, self("logs", name)
                time.sleep(0.05)
            yield name, port
        finally:
            self("rm", "--force", name)


@pytest.fixture(scope="module")
def docker() -> Iterator[Docker]:
    if not BASE.exists():
        make_base()
    with tempfile.TemporaryDirectory(prefix="docker", ignore_cleanup_errors=True) as folder:
        home, log = Path(folder), Path(folder) / "log"
        engine = Docker(home / "socket")
        places = f"--data-root {home}/data --exec-root {home}/exec --pidfile {home}/pid -H unix://{engine.socket}"
        flags = "--bridge=none --iptables=false --storage-driver=overlay2"
        with log.open("wb") as said, subprocess.Popen(f"dockerd {places} {flags}".split(), stdout=said, stderr=said) as daemon:
            try:
                deadline = time.monotonic() + 60
                while engine("info").returncode:
                    assert daemon.poll() is None, log.read_text()[-3000:]
                    assert time.monotonic() < deadline, log.read_text()[-3000:]
                    time.sleep(0.2)
                engine.do("import", str(BASE), "trixie-base")
                yield engine
            finally:
                daemon.send_signal(signal.SIGTERM)
                daemon.wait(60)
                subprocess.run(["umount", f"{home}/exec/netns/default"], capture_output=True)  # which it leaves


def indexes() -> list[str]:
    """The flags that hand this machine's package index to a build."""
    return [word for name in ("PIP_INDEX_URL", "PIP_EXTRA_INDEX_URL") if name in os.environ for word in ("--build-arg", name)]


@pytest.fixture(scope="module")
def image(docker: Docker) -> str:
    """The service's image, built as the README says but for the base, the network and this machine's package index."""
    words = [
        "build",
        "--network",
        "host",
        "--build-arg",
        "BASE=trixie-base",
        "-f",
        "deployments/Dockerfile",
        "-t",
        "tidemill-serving",
    ]
    docker.do(*words, *indexes(), str(ROOT))
    return "tidemill-serving"


@pytest.fixture(scope="module")
def mounted(bundle: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:  # noqa: F811
    """The bundle where the container's user may read it: pytest's folders are for their owner alone."""
    folder = tmp_path_factory.mktemp("mounted") / "bundle"
    folder.mkdir()
    for path in bundle.iterdir():
        shutil.copy(path, folder)
    return folder


def above_base(docker: Docker, image: str, base: str) -> int:
    """Bytes of the layers that the image has and its base has not."""
    sizes = [int(docker.do("image", "inspect", "--format", "{{.Size}}", name)) for name in (image, base)]
    layers = sum(map(int, docker.do("history", "--human=false", "--format", "{{.Size}}", image).split()))
    assert layers == sizes[0]
    return sizes[0] - sizes[1]


def test_layers_above_the_base_are_few_bytes_and_tell_nothing(docker: Docker, image: str) -> None:
    size = above_base(docker, image, "trixie-base")
    print(f"{size:,} bytes above the base")
    assert size <= MOST_BYTES
    told = docker.do("history", "--no-trunc", image) + docker.do("image", "inspect", image)
    for name in ("PIP_INDEX_URL", "PIP_EXTRA_INDEX_URL", "HTTP_PROXY", "HTTPS_PROXY"):
        assert name not in told
        assert not os.environ.get(name) or os.environ[name] not in told
    everything = "import pathlib; print(*pathlib.Path('/opt/tidemill').rglob('*'), sep='\\n')"
    files = docker.do("run", "--rm", "--network", "none", "--entrypoint", "python3", image, "-c", everything).splitlines()
    assert "/opt/tidemill/serving/app.py" in files
    assert "/opt/tidemill/tasks/core/encoder.py" in files
    for unwanted in ("tasks/train.py", "tensorflow", "keras", "flows", "pip", "pandas", "prefect", "dvc"):
        assert f"/opt/tidemill/{unwanted}" not in files


def test_service_in_the_container_answers_golden_rows_without_root_or_a_disk_to_write_to(
    docker: Docker,
    image: str,
    mounted: Path,
) -> None:
    with docker.run("-v", f"{mounted}:/bundle:ro", image, "--bundle", "/bundle") as (name, port):
        status, headers, body = ask(port, "POST", PATH, json.dumps({"instances": GOLDEN}).encode())
        assert (status, headers["x-model-version"]) == (200, "1")
        assert json.loads(body)["predictions"] == pytest.approx(WANTED, abs=1e-6)
        scripts = ("/docs/static/swagger-ui.css", "/docs/static/swagger-ui-bundle.js")
        for path in ("/", "/docs", *scripts, "/metrics", "/v2", "/openapi.json"):
            assert ask(port, "GET", path)[0] == 200, path
        assert ask(port, "POST", PATH.replace("predict", "explain"), ROW)[0] == 200
        assert docker.do("exec", name, "id", "-u") == "10001"
        refused = docker("exec", name, "python3", "-c", "open('/workspace/x', 'w')")
        assert refused.returncode
        assert "Read-only file system" in refused.stderr
        docker.do("stop", "--time", "10", name)  # after which it is killed, and has not ended with 0
        assert docker.do("inspect", "--format", "{{.State.ExitCode}}", name) == "0", docker("logs", name)


def test_container_scores_arrow_and_parquet_and_keeps_a_log(docker: Docker, image: str, mounted: Path) -> None:
    table = pa.table({name: [row.get(name) for row in GOLDEN] for name in ("distance", "carrier")})
    stream, file = io.BytesIO(), io.BytesIO()
    with pa.ipc.new_stream(stream, table.schema) as writer:
        writer.write_table(table)
    pq.write_table(table, file)
    flags = ["--bundle", "/bundle", "--log", "/tmp/log", "--log-flush", "1"]
    with docker.run("-v", f"{mounted}:/bundle:ro", image, *flags) as (name, port):
        for body, kind in ((stream, "application/vnd.apache.arrow.stream"), (file, "application/vnd.apache.parquet")):
            status, _, answer = ask(port, "POST", PATH, body.getvalue(), content_type=kind)
            assert status == 200, answer
            held = pa.BufferReader(answer)
            told = pa.ipc.open_stream(held).read_all() if body is stream else pq.read_table(held)
            assert told["prediction"].to_pylist() == pytest.approx(WANTED, abs=1e-6)
        assert ask(port, "POST", PATH, ROW)[0] == 200
        deadline = time.monotonic() + 20
        while not docker.do("exec", name, "find", "/tmp", "-name", "*.parquet"):
            assert time.monotonic() < deadline, docker("logs", name)
            time.sleep(0.2)


def test_container_follows_a_store_in_s3_and_logs_to_it(
    docker: Docker, image: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With what is left of boto3 in the image."""
    bundles = {}
    for name, bias in (("old", 0.0), ("new", 0.125)):
        graph = network(tmp_path / f"{name}_saved", bias)
        bundles[name] = make_bundle(tmp_path / name, graph, lambda row, bias=bias: sigmoid(total(row) + bias))
    with s3.reached(monkeypatch) as service:
        releases = Releases(open_storage("s3://mill/releases"))
        for name in bundles:
            releases.put(tmp_path / name)
        promote("s3://mill/releases", bundles["old"])
        secrets = [word for variable in service.environment for word in ("-e", variable)]
        flags = ["--store", "s3://mill/releases", "--poll", "0.2", "--log", "s3://mill/log", "--log-flush", "0.2"]
        with docker.run(*secrets, image, *flags) as (name, port):
            assert ask(port, "POST", PATH, ROW)[1]["x-model-version"] == bundles["old"]
            promote("s3://mill/releases", bundles["new"])
            deadline = time.monotonic() + 60
            while ask(port, "POST", PATH, ROW)[1]["x-model-version"] != bundles["new"]:
                assert time.monotonic() < deadline, docker("logs", name)
                time.sleep(0.2)
            log = open_storage("s3://mill/log")
            while not (keys := log.keys("flights/date=")):
                assert time.monotonic() < deadline, docker("logs", name)
                time.sleep(0.2)
            assert pq.read_table(pa.BufferReader(log.read(keys[0])[0]))["version"].to_pylist()[0] == bundles["old"]
            assert service.environment["AWS_SECRET_ACCESS_KEY"] not in docker.do("logs", name)


def test_container_refuses_to_be_open_to_all_unless_told_so(docker: Docker, image: str, mounted: Path) -> None:
    words = ["run", "--rm", "--read-only", "--network", "none", "-v", f"{mounted}:/bundle:ro", image]
    done = docker(*words, "--bundle", "/bundle")
    assert done.returncode == 2
    assert "nobody would be asked for a key" in done.stderr
    done = docker(*words, "--no-auth")
    assert done.returncode == 1
    assert "Traceback" not in done.stderr
    assert "production" in done.stderr


def test_probe_says_healthy_of_a_service_that_answers_and_unhealthy_of_one_that_does_not(
    docker: Docker,
    image: str,
    mounted: Path,
) -> None:
    words = ["--read-only", "--network", "none", "--health-interval", "1s", "--health-start-period", "0s", "--health-retries", "2"]
    name = docker.do("run", "--detach", *words, "-v", f"{mounted}:/bundle:ro", image, "--bundle", "/bundle", "--no-auth")
    try:
        for signals, wanted in (("CONT", "healthy"), ("STOP", "unhealthy"), ("CONT", "healthy")):
            docker.do("kill", "--signal", signals, name)
            deadline = time.monotonic() + 30
            while (found := docker.do("inspect", "--format", "{{.State.Health.Status}}", name)) != wanted:
                assert time.monotonic() < deadline, found
                time.sleep(0.2)
    finally:
        docker("rm", "--force", name)


class Brightness(tf.Module):  # type: ignore[misc]
    """The sigmoid of an image's mean, as a convolution and a dense layer would see it."""

    @tf.function(
        input_signature=[
            tf.TensorSpec((None, 2), tf.float32, name="num"),
            tf.TensorSpec((None, 1), tf.int32, name="cat"),
            tf.TensorSpec((None, 4, 4, 3), tf.uint8, name="image0"),
        ]
    )
    def serve(self, num: Any, cat: Any, image0: Any) -> dict[str, Any]:
        seen = tf.nn.conv2d(tf.cast(image0, tf.float32) / 255, tf.ones((3, 3, 3, 1)) / 27, 1, "SAME")
        bright = tf.linalg.matmul(tf.reshape(seen, (-1, 16)), tf.ones((16, 1)) / 16)
        return {"score": tf.sigmoid(bright + 0 * (tf.reduce_sum(num, 1, keepdims=True) + tf.cast(cat, tf.float32)))}


def test_container_reads_images_of_every_format(docker: Docker, image: str, tmp_path: Path) -> None:
    network, folder = Brightness(), tmp_path / "bundle"
    tf.saved_model.save(network, str(tmp_path / "saved"), signatures={"serve": network.serve})
    folder.mkdir()
    converter = tf.lite.TFLiteConverter.from_saved_model(str(tmp_path / "saved"), signature_keys=["serve"])
    (folder / "model.tflite").write_bytes(converter.convert())
    encoder = replace(ENCODER, images=(ImageColumn("photo", 4, 4, 3),))
    (folder / "encoder.json").write_text(json.dumps(encoder.to_json()))
    (folder / "model_card.md").write_text("# photos")
    pixels = [[[[40] * 3] * 4] * 4] * 2
    (folder / "background.json").write_text(json.dumps({**BACKGROUND, "image0": pixels}))
    rows = []
    for form in ("PNG", "JPEG", "WEBP", "GIF", "BMP"):
        held = io.BytesIO()
        Image.new("RGB", (9, 7), (200, 200, 200)).save(held, form)
        rows.append({"distance": 1.0, "photo": base64.b64encode(held.getvalue()).decode()})
    inputs = encoder.encode_rows(rows)
    wanted = tf.reshape(network.serve(**{name: tf.constant(value) for name, value in inputs.items()})["score"], (-1,)).numpy()
    assert 0.6 < wanted[0] < 0.7
    record(folder, rows, wanted.tolist())
    with docker.run("-v", f"{folder}:/bundle:ro", image, "--bundle", "/bundle") as (_, port):
        status, _, body = ask(port, "POST", PATH, json.dumps({"instances": rows}).encode())
        assert status == 200
        assert json.loads(body)["predictions"] == pytest.approx(wanted.tolist(), abs=1e-5)


def test_release_baked_into_an_image_needs_no_mount(docker: Docker, image: str, mounted: Path) -> None:
    docker.do("build", "-f", str(ROOT / "deployments/model.Dockerfile"), "-t", "flights-serving", str(mounted))
    with docker.run("flights-serving") as (_, port):
        status, _, body = ask(port, "POST", PATH, json.dumps({"instances": GOLDEN}).encode())
        assert (status, json.loads(body)["predictions"]) == (200, pytest.approx(WANTED, abs=1e-6))


def test_image_of_the_function_answers_under_the_runtime_api(docker: Docker, image: str, mounted: Path) -> None:
    docker.do("build", "-f", str(ROOT / "deployments/model.Dockerfile"), "-t", "flights-serving", str(mounted))
    words = ["--network", "host", "--build-arg", "BASE=trixie-base", "--build-arg", "SERVING=flights-serving", *indexes()]
    docker.do("build", *words, "-f", "deployments/lambda.Dockerfile", "-t", "flights-lambda", str(ROOT))
    service = Lambda()
    settings = {"AWS_LAMBDA_RUNTIME_API": service.address, "TIDEMILL_FLAGS": "--bundle /bundle --no-auth"}
    options = [word for name, value in settings.items() for word in ("-e", f"{name}={value}")]
    name = docker.do("run", "--detach", "--network", "host", *HARDENED, "--user", "993:990", *options, "flights-lambda")
    try:
        answer = service.invoke(event("POST", PATH, json.dumps({"instances": GOLDEN}).encode()))
        assert answer["statusCode"] == 200, docker("logs", name)
        assert json.loads(answer["body"])["predictions"] == pytest.approx(WANTED, abs=1e-6)
    finally:
        docker("rm", "--force", name)
        service.close()


def test_compose_file_is_whole_and_hardened() -> None:
    file = ROOT / "deployments/compose.yaml"
    done = subprocess.run(["docker-compose", "-f", str(file), "config"], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    for name, service in (services := yaml.safe_load(done.stdout)["services"]).items():
        assert service["read_only"], name
        assert service["cap_drop"] == ["ALL"], name
        assert service["security_opt"] == ["no-new-privileges:true"], name
        assert service["mem_limit"], name
        assert all(str(port).startswith("127.0.0.1:") for port in service.get("ports", [])), name
        for volume in service.get("volumes", []):
            host, _, _ = str(volume).partition(":")
            made = "/state/" in host or host.endswith(("/releases", "/reports"))
            assert made or Path(host).exists(), volume
    assert sorted(services) == ["alertmanager", "grafana", "nginx", "node-exporter", "prometheus", "serving-1", "serving-2"]
    assert services["serving-1"] == services["serving-2"]
    assert not services["serving-1"].get("ports")


def test_template_of_the_function_keeps_the_rules_of_cloudformation(tmp_path: Path) -> None:
    text = (ROOT / "deployments/aws/template.yaml").read_text()
    (tmp_path / "good.yaml").write_text(text)
    (tmp_path / "bad.yaml").write_text(text.replace("!Ref Memory", "!Ref Memori"))
    done = subprocess.run(["cfn-lint", "good.yaml", "bad.yaml"], cwd=tmp_path, capture_output=True, text=True, timeout=120)
    assert done.returncode == 2
    assert "bad.yaml" in done.stdout
    assert "good.yaml" not in done.stdout
