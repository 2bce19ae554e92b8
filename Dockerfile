# syntax=docker/dockerfile:1
FROM python:3.13-slim AS build
WORKDIR /build
RUN python -m venv /opt/ledgerq
ENV PATH="/opt/ledgerq/bin:$PATH"
COPY requirements/runtime.txt requirements/build.txt requirements/
RUN pip install --no-cache-dir --require-hashes -r requirements/runtime.txt \
    && pip install --no-cache-dir --require-hashes -r requirements/build.txt
COPY pyproject.toml README.md LICENSE ./
COPY ledgerq ledgerq
RUN pip install --no-cache-dir --no-deps --no-build-isolation . \
    && pip uninstall --yes hatchling

FROM python:3.13-slim
RUN useradd --system --uid 10001 --no-create-home ledgerq
COPY --from=build /opt/ledgerq /opt/ledgerq
ENV PATH="/opt/ledgerq/bin:$PATH" PYTHONUNBUFFERED=1 LEDGERQ_LOG_FORMAT=json LEDGERQ_APP=worker.app:app
WORKDIR /app
COPY db db
COPY jobs jobs
COPY worker worker
COPY migrations migrations
USER ledgerq
STOPSIGNAL SIGTERM
HEALTHCHECK --interval=15s --timeout=10s --start-period=20s --retries=3 \
    CMD ["ledgerq", "health", "--worker"]
ENTRYPOINT ["ledgerq"]
CMD ["worker"]
