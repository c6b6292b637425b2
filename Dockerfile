# CPU:  docker build -t transcribe-mcp .
# CUDA: docker build -t transcribe-mcp:cuda --build-arg VARIANT=cuda .
ARG PYTHON=3.12

FROM python:${PYTHON}-slim AS build
ARG VARIANT=cpu
COPY --from=ghcr.io/astral-sh/uv:0.13.9 /uv /usr/local/bin/uv
WORKDIR /build
# The dependencies are a layer of their own: a change of the source keeps it.
COPY pyproject.toml ./
RUN extras="--extra cloud --extra docx"; \
    if [ "$VARIANT" = cuda ]; then extras="$extras --extra torch"; fi; \
    uv venv --no-managed-python /opt/transcribe-mcp \
    && uv pip install --python /opt/transcribe-mcp --no-cache --compile-bytecode -r pyproject.toml $extras
COPY README.md LICENSE ./
COPY samples/welcome.flac samples/welcome.flac
COPY src src
RUN uv pip install --python /opt/transcribe-mcp --no-cache --compile-bytecode --no-deps .

FROM python:${PYTHON}-slim
ARG VARIANT=cpu
LABEL io.modelcontextprotocol.server.name="io.github.OWNER/transcribe-mcp" \
      org.opencontainers.image.title="TranscribeMCP" \
      org.opencontainers.image.version="0.1.0" \
      org.opencontainers.image.licenses="MIT AND Apache-2.0"
# On a GPU, Triton compiles its launchers with a C compiler and Python's headers.
RUN if [ "$VARIANT" = cuda ]; then \
        apt-get update && apt-get install -y --no-install-recommends gcc libc6-dev \
        && rm -rf /var/lib/apt/lists/* \
        && test -f "$(python -c 'import sysconfig; print(sysconfig.get_path("include"))')/Python.h"; \
    fi
# A volume takes the owner of the directory that it covers.
RUN useradd --uid 1000 --create-home transcribe \
    && mkdir -p /data/uploads /models /recordings \
    && chown -R transcribe /data /models
COPY --from=build /opt/transcribe-mcp /opt/transcribe-mcp
ENV PATH=/opt/transcribe-mcp/bin:$PATH \
    TRANSCRIBE_MCP_DATA_DIR=/data \
    TRANSCRIBE_MCP_CACHE_DIR=/models/cache \
    HF_HOME=/models/huggingface \
    HF_HUB_DISABLE_TELEMETRY=1
USER transcribe
WORKDIR /recordings
VOLUME ["/data", "/models"]
EXPOSE 8765
HEALTHCHECK --start-period=20s --interval=30s --timeout=10s \
    CMD ["python", "-c", "import urllib.request; urllib.request.urlopen('http://127.0.0.1:8765/health', timeout=5)"]
ENTRYPOINT ["transcribe-mcp"]
# Refuses to start without TRANSCRIBE_MCP_TOKEN: other machines can reach it.
CMD ["serve", "--http", "--host", "0.0.0.0"]
