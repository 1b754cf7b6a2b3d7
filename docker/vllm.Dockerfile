# clearml-deploy with vLLM. From the repository's root:
#   docker build -f docker/vllm.Dockerfile -t clearml-deploy-vllm:0.32.0 .
#   docker build -f docker/vllm.Dockerfile --build-arg vllm_cuda=OFF ...
# docs/clusters.md says how the image is used, and what of it was tried.

ARG vllm_version=0.32.0
# ON: vLLM's own image for NVIDIA GPUs. OFF: the build for the CPU.
ARG vllm_cuda=ON
# What kernels that are compiled at run time are compiled for, such as "9.0"; empty: the GPU that is
# found. The kernels that come with vLLM are there for every GPU that it supports.
ARG cuda_arch=
ARG ubuntu_version=24.04

FROM vllm/vllm-openai:v${vllm_version} AS base-ON
ARG cuda_arch
ENV TORCH_CUDA_ARCH_LIST=${cuda_arch}

FROM ubuntu:${ubuntu_version} AS base-OFF
ARG vllm_version
# A compiler and Python's headers: the CPU build compiles its kernels at the first start.
RUN apt-get update \
    && apt-get install -y --no-install-recommends g++ libnuma1 python3-dev python3-venv \
    && rm -rf /var/lib/apt/lists/*
ENV CLEARML_DEPLOY_VLLM=/opt/vllm/engines/vllm-${vllm_version}+cpu

FROM base-${vllm_cuda} AS program
WORKDIR /src
COPY README.md pyproject.toml requirements.lock setup.py ./
COPY apps apps
COPY common common
# An environment of its own: vLLM's packages stay as they are. With the agent, as a pod's shell starts
# it from here.
RUN python3 -m venv /opt/clearml-deploy \
    && /opt/clearml-deploy/bin/pip install --no-cache-dir --constraint requirements.lock ".[agent]"

FROM program AS engine-ON
RUN mkdir /opt/vllm

FROM program AS engine-OFF
ARG vllm_version
RUN CLEARML_DEPLOY_CACHE=/opt/vllm PIP_NO_CACHE_DIR=1 \
        /opt/clearml-deploy/bin/python -m apps.vllm.install "${vllm_version}" --cpu \
    && rm -rf /opt/vllm/vllm-flags /opt/vllm/engines/*.log /opt/vllm/engines/*.lock

FROM engine-${vllm_cuda} AS engine

FROM base-${vllm_cuda}
RUN apt-get update \
    && apt-get install -y --no-install-recommends ca-certificates curl git tini \
    && rm -rf /var/lib/apt/lists/* \
    && useradd --uid 10001 --user-group --create-home --shell /bin/bash deploy \
    && install --directory --owner deploy --group deploy /cache
COPY --from=engine /opt/vllm /opt/vllm
COPY --from=program /opt/clearml-deploy /opt/clearml-deploy
COPY docker/entrypoint.sh /usr/local/bin/clearml-deploy-entrypoint
COPY docker/drain.sh /usr/local/bin/clearml-deploy-drain
ENV PATH=/opt/clearml-deploy/bin:$PATH \
    HF_HOME=/cache/huggingface \
    VLLM_CACHE_ROOT=/cache/vllm \
    CLEARML_DEPLOY_CACHE=/cache/clearml-deploy \
    HEALTH_URL=http://127.0.0.1:8800/health \
    CLEARML_AGENT_SKIP_PYTHON_ENV_INSTALL=1 \
    CLEARML_AGENT_SKIP_CONTAINER_APT=1 \
    CLEARML_AGENT_NO_UPDATE=1
USER 10001:10001
WORKDIR /home/deploy
EXPOSE 8800
HEALTHCHECK --interval=15s --timeout=5s --start-period=120s --retries=4 \
    CMD ["bash", "-c", "curl --fail --silent --show-error --output /dev/null --max-time 4 $HEALTH_URL"]
ENTRYPOINT ["tini", "--", "clearml-deploy-entrypoint"]
CMD ["run", "vllm"]
