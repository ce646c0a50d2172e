# All of Tidemill, for runs in the docker, kubernetes and ecs pools of deployments/pools.yaml:
#   docker build -f deployments/flows.Dockerfile -t tidemill-flows .
ARG BASE=python:3.11-slim-bookworm

FROM ${BASE} AS build
# An index of your own; nothing of this stage is in the image's history.
ARG PIP_INDEX_URL
ARG PIP_EXTRA_INDEX_URL
ARG DEBIAN_FRONTEND=noninteractive
RUN apt-get update && apt-get install -y --no-install-recommends build-essential
WORKDIR /opt/tidemill
COPY requirements.lock pyproject.toml README.md LICENSE ./
RUN python3 -m venv .venv && .venv/bin/pip install --no-cache-dir uv==0.13.8
ENV VIRTUAL_ENV=/opt/tidemill/.venv UV_NO_CACHE=1 UV_SYSTEM_CERTS=1 UV_CONSTRAINT=requirements.lock
COPY flows flows
COPY tasks tasks
COPY serving serving
# In the versions of the lock, and by its hashes, but without what tests and benchmarks need; the first two install the third.
RUN export UV_DEFAULT_INDEX="${PIP_INDEX_URL}" UV_INDEX="${PIP_EXTRA_INDEX_URL}" \
    && .venv/bin/uv pip install hatchling editables \
    && .venv/bin/uv pip install --no-build-isolation-package tidemill -e ".[dask]"

FROM ${BASE}
ARG DEBIAN_FRONTEND=noninteractive
RUN apt-get update && apt-get install -y --no-install-recommends git && rm -rf /var/lib/apt/lists/*
COPY --from=build /opt/tidemill /opt/tidemill
COPY deployments /opt/tidemill/deployments
COPY dvc.yaml /opt/tidemill/
ENV PATH=/opt/tidemill/.venv/bin:$PATH
RUN useradd --create-home tidemill
USER tidemill
WORKDIR /workspace
