# The service as a function of AWS Lambda, on top of an image with a release in it (deployments/model.Dockerfile):
#   docker build -f deployments/lambda.Dockerfile --build-arg SERVING=flights-serving -t flights-lambda .
# Or on top of tidemill-serving, with the store's address in TIDEMILL_FLAGS. deployments/aws/template.yaml is what runs it.
ARG BASE=debian:trixie-slim
ARG SERVING=tidemill-serving

FROM ${BASE} AS build
ARG PIP_INDEX_URL
ARG PIP_EXTRA_INDEX_URL
ARG DEBIAN_FRONTEND=noninteractive
RUN apt-get update && apt-get install -y --no-install-recommends ca-certificates python3-pip
COPY serving/lambda.lock /build/
RUN python3 -m pip install --no-cache-dir --no-deps --only-binary :all: --require-hashes --target /opt/lambda -r /build/lambda.lock

FROM ${SERVING}
COPY --from=build /opt/lambda /opt/lambda
ENV PYTHONPATH=/opt/tidemill:/opt/lambda TIDEMILL_FLAGS="--bundle /bundle"
ENTRYPOINT ["python3", "-m", "awslambdaric"]
CMD ["serving.lambda_handler.handler"]
