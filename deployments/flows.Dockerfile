# All of Tidemill, for runs in the docker, kubernetes and ecs pools of deployments/pools.yaml:
#   docker build -f deployments/flows.Dockerfile -t tidemill-flows .
FROM python:3.11-slim-bookworm
RUN apt-get update && apt-get install -y --no-install-recommends git && rm -rf /var/lib/apt/lists/*
WORKDIR /opt/tidemill
COPY requirements.lock pyproject.toml README.md LICENSE ./
RUN pip install --no-cache-dir uv==0.13.8 && uv pip install --system --no-cache --require-hashes -r requirements.lock
COPY flows flows
COPY tasks tasks
COPY serving serving
COPY deployments deployments
COPY dvc.yaml ./
RUN uv pip install --system --no-cache --no-deps --no-build-isolation -e . && useradd --create-home tidemill
USER tidemill
WORKDIR /workspace
