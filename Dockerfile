# syntax=docker/dockerfile:1
# Three images from one file: `influence` (the control plane, no torch), `worker` (control plane and job process),
# `embedding`. Each installs its own hash-checked lock. Any Debian with Python 3.11 can be the base.
ARG BASE_IMAGE=docker.io/library/debian:bookworm-slim

FROM ${BASE_IMAGE} AS base
# hadolint ignore=DL3008 # security updates of the base are wanted; the Python packages are pinned by hash
RUN apt-get update \
    && apt-get install -y --no-install-recommends ca-certificates python3 \
    && rm -rf /var/lib/apt/lists/* \
    && useradd --uid 10001 --user-group --no-create-home --home-dir /var/lib/eif --shell /usr/sbin/nologin eif \
    && install -d -o eif -g eif /var/lib/eif
ENV PATH=/opt/eif/bin:$PATH \
    PYTHONUNBUFFERED=1 \
    PYTHONDONTWRITEBYTECODE=1 \
    TORCH_FORCE_WEIGHTS_ONLY_LOAD=1

FROM base AS build
# hadolint ignore=DL3008 # build stage only
RUN apt-get update \
    && apt-get install -y --no-install-recommends python3-venv \
    && rm -rf /var/lib/apt/lists/* \
    && python3 -m venv /opt/eif
WORKDIR /src
COPY deploy/locks/build.lock deploy/locks/build.lock
RUN pip install --no-cache-dir --require-hashes -r deploy/locks/build.lock

FROM build AS build-influence
COPY deploy/locks/influence.lock deploy/locks/influence.lock
RUN pip install --no-cache-dir --require-hashes -r deploy/locks/influence.lock
COPY . .
RUN pip install --no-cache-dir --no-deps --no-build-isolation .

FROM build AS build-worker
COPY deploy/locks/worker.lock deploy/locks/worker.lock
RUN pip install --no-cache-dir --require-hashes -r deploy/locks/worker.lock
COPY . .
RUN pip install --no-cache-dir --no-deps --no-build-isolation .

FROM build AS build-embedding
COPY deploy/locks/embedding.lock deploy/locks/embedding.lock
RUN pip install --no-cache-dir --require-hashes -r deploy/locks/embedding.lock
COPY . .
RUN pip install --no-cache-dir --no-deps --no-build-isolation .

FROM base AS influence
COPY --from=build-influence /opt/eif /opt/eif
USER 10001:10001
WORKDIR /var/lib/eif
VOLUME ["/var/lib/eif"]
ENV EIF_INFLUENCE_LISTEN=0.0.0.0:50051 EIF_INFLUENCE_STATE_DIR=/var/lib/eif/influence
EXPOSE 50051
HEALTHCHECK --interval=5s --timeout=3s --start-period=20s CMD ["python", "-m", "services.common.probe", "127.0.0.1:50051"]
ENTRYPOINT ["python", "-m", "services.influence"]

FROM base AS worker
COPY --from=build-worker /opt/eif /opt/eif
USER 10001:10001
WORKDIR /var/lib/eif
VOLUME ["/var/lib/eif"]
ENV EIF_INFLUENCE_LISTEN=0.0.0.0:50051 EIF_INFLUENCE_STATE_DIR=/var/lib/eif/influence
EXPOSE 50051
HEALTHCHECK --interval=5s --timeout=3s --start-period=20s CMD ["python", "-m", "services.common.probe", "127.0.0.1:50051"]
ENTRYPOINT ["python", "-m", "services.influence"]

FROM base AS embedding
COPY --from=build-embedding /opt/eif /opt/eif
USER 10001:10001
WORKDIR /var/lib/eif
VOLUME ["/var/lib/eif"]
ENV EIF_EMBEDDING_LISTEN=0.0.0.0:50052 EIF_EMBEDDING_STATE_DIR=/var/lib/eif/embedding
EXPOSE 50052
HEALTHCHECK --interval=5s --timeout=3s --start-period=20s CMD ["python", "-m", "services.common.probe", "127.0.0.1:50052"]
ENTRYPOINT ["python", "-m", "services.embedding"]
