# The service, and with another command its migrations: `alembic upgrade head`.
# Both stages stand on one image, since the virtual environment is bound to the place of its interpreter.
ARG PYTHON_IMAGE=python:3.11.14-slim-bookworm

FROM ${PYTHON_IMAGE} AS builder

ENV PIP_DISABLE_PIP_VERSION_CHECK=1 \
    PIP_NO_CACHE_DIR=1 \
    PIP_ROOT_USER_ACTION=ignore \
    PDM_CHECK_UPDATE=false \
    PDM_USE_VENV=false

# The same PDM as in the Makefile: newer releases of two of its dependencies break it.
RUN python -m venv /opt/pdm \
    && /opt/pdm/bin/pip install --quiet 'pdm==2.29.3' 'hishel<1.2' 'unearth<0.18'

WORKDIR /build
COPY pyproject.toml pdm.lock ./
# A lock file that lags behind pyproject.toml ends the build. pip installs what PDM has locked: it checks every hash, and
# an index that pip is told of (a mirror, say) holds for the build too. Wheels only, so that no compiler is ever needed.
RUN /opt/pdm/bin/pdm lock --check \
    && /opt/pdm/bin/pdm export --prod --format requirements --output requirements.txt \
    && python -m venv --without-pip /opt/venv \
    && /opt/pdm/bin/pip --python /opt/venv/bin/python install --quiet \
        --require-hashes --no-deps --only-binary :all: --requirement requirements.txt

WORKDIR /app
COPY alembic.ini ./
COPY alembic ./alembic
COPY result_aggregator_service ./result_aggregator_service
# The root file system is read-only at run time, so the bytecode is made here. Unchecked: a copy's times say nothing.
RUN python -m compileall -q --invalidation-mode unchecked-hash alembic result_aggregator_service


FROM ${PYTHON_IMAGE}

LABEL org.opencontainers.image.title="result-aggregator-service" \
      org.opencontainers.image.description="Read model of HuleEdu's essay batches: events in, HTTP API and events out"

# HOME, since the user has no entry in the passwd file and libraries look for files of theirs at home.
ENV PATH=/opt/venv/bin:$PATH \
    PYTHONUNBUFFERED=1 \
    PYTHONDONTWRITEBYTECODE=1 \
    HOME=/app \
    PORT=4003 \
    METRICS_PORT=9096

WORKDIR /app
COPY --from=builder /opt/venv /opt/venv
COPY --from=builder /app /app

# A number, so that an orchestrator can see that it is not root. The files stay root's: the service cannot change itself.
USER 10001:10001
EXPOSE 4003 9096
STOPSIGNAL SIGTERM

# Liveness, as it speaks of this process alone: an outage of a server elsewhere marks no container as broken.
HEALTHCHECK --interval=10s --timeout=5s --start-period=30s --retries=3 \
    CMD ["python", "-c", "import http.client, os, sys; c = http.client.HTTPConnection('127.0.0.1', int(os.environ.get('RESULT_AGGREGATOR_SERVICE_PORT') or os.environ['PORT']), timeout=4); c.request('GET', '/livez'); sys.exit(c.getresponse().status != 200)"]

# Without a shell between: the service is process 1 and gets the SIGTERM on which it drains.
CMD ["python", "-m", "result_aggregator_service"]
