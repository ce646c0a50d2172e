# The service with a release in it, which then needs no mount and no store:
#   docker build -f deployments/model.Dockerfile -t flights-serving models/release
# The last word is the bundle's folder, of any workspace.
ARG SERVING=tidemill-serving
FROM ${SERVING}
COPY --chown=10001:10001 . /bundle
ENTRYPOINT ["python3", "-m", "serving", "--host", "0.0.0.0", "--port", "8080", "--bundle", "/bundle"]
