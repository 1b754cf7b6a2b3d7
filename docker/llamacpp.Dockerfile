# clearml-deploy with llama.cpp's own server. From the repository's root:
#   docker build -f docker/llamacpp.Dockerfile -t clearml-deploy-llamacpp .
#   docker build -f docker/llamacpp.Dockerfile --build-arg llamacpp_cuda=ON --build-arg cuda_arch=90-real ...
# docs/clusters.md says how the image is used, and what of it was tried.

# A release of llama.cpp. Its flags are read from the server itself, so another one will do as well.
ARG llamacpp_version=b11541
# ON: for NVIDIA GPUs.
ARG llamacpp_cuda=OFF
# The GPUs to compile for, in CMake's words; counts with llamacpp_cuda=ON.
ARG cuda_arch=75-real;80-real;86-real;89-real;90-real;100-real;120
ARG cuda_version=12.8.1
ARG ubuntu_version=24.04

FROM ubuntu:${ubuntu_version} AS compiler-OFF
FROM nvidia/cuda:${cuda_version}-devel-ubuntu${ubuntu_version} AS compiler-ON

FROM compiler-${llamacpp_cuda} AS engine
ARG llamacpp_version
ARG llamacpp_cuda
ARG cuda_arch
SHELL ["/bin/bash", "-euo", "pipefail", "-c"]
RUN apt-get update \
    && apt-get install -y --no-install-recommends ca-certificates cmake curl g++-14 gcc-14 ninja-build \
    && rm -rf /var/lib/apt/lists/*
ENV CC=gcc-14 CXX=g++-14 CUDAHOSTCXX=g++-14
WORKDIR /src
RUN curl --fail --silent --show-error --location --output /tmp/llama.cpp.tar.gz \
        "https://github.com/ggml-org/llama.cpp/archive/refs/tags/${llamacpp_version}.tar.gz" \
    && tar --extract --gzip --strip-components=1 --file /tmp/llama.cpp.tar.gz \
    && rm /tmp/llama.cpp.tar.gz
# Not for this machine's processor: the variants for all kinds lie side by side, and the best one is
# loaded at the start. Engines listen for clearml-deploy alone: no TLS, no web page.
RUN cmake -S . -B build -G Ninja \
        -DCMAKE_BUILD_TYPE=Release \
        -DCMAKE_BUILD_WITH_INSTALL_RPATH=ON \
        "-DCMAKE_INSTALL_RPATH=\$ORIGIN" \
        -DCMAKE_EXE_LINKER_FLAGS=-Wl,--allow-shlib-undefined \
        "-DCMAKE_CUDA_ARCHITECTURES=${cuda_arch}" \
        -DGGML_NATIVE=OFF \
        -DGGML_BACKEND_DL=ON \
        -DGGML_CPU_ALL_VARIANTS=ON \
        "-DGGML_CUDA=${llamacpp_cuda}" \
        "-DLLAMA_BUILD_NUMBER=${llamacpp_version#b}" \
        -DLLAMA_OPENSSL=OFF \
        -DLLAMA_BUILD_UI=OFF \
        -DLLAMA_USE_PREBUILT_UI=OFF \
        -DLLAMA_BUILD_TESTS=OFF \
        -DLLAMA_BUILD_EXAMPLES=OFF \
    && cmake --build build --target llama-server --parallel "$(nproc)" \
    && mkdir /opt/llama.cpp \
    && cp -P build/bin/llama-server build/bin/*.so* /opt/llama.cpp \
    && strip --strip-unneeded /opt/llama.cpp/*

FROM ubuntu:${ubuntu_version} AS program
RUN apt-get update \
    && apt-get install -y --no-install-recommends python3 python3-venv \
    && rm -rf /var/lib/apt/lists/*
WORKDIR /src
COPY README.md pyproject.toml requirements.lock setup.py ./
COPY apps apps
COPY common common
# With the agent, as a pod's shell starts it from here.
RUN python3 -m venv /opt/clearml-deploy \
    && /opt/clearml-deploy/bin/pip install --no-cache-dir --constraint requirements.lock ".[agent]"

FROM ubuntu:${ubuntu_version} AS base-OFF
FROM nvidia/cuda:${cuda_version}-runtime-ubuntu${ubuntu_version} AS base-ON

FROM base-${llamacpp_cuda}
SHELL ["/bin/bash", "-euo", "pipefail", "-c"]
RUN apt-get update \
    && apt-get install -y --no-install-recommends ca-certificates curl git libgomp1 python3 tini \
    && rm -rf /var/lib/apt/lists/* \
    && useradd --uid 10001 --user-group --create-home --shell /bin/bash deploy \
    && install --directory --owner deploy --group deploy /cache
COPY --from=engine /opt/llama.cpp /opt/llama.cpp
COPY --from=program /opt/clearml-deploy /opt/clearml-deploy
COPY docker/entrypoint.sh /usr/local/bin/clearml-deploy-entrypoint
COPY docker/drain.sh /usr/local/bin/clearml-deploy-drain
ENV PATH=/opt/clearml-deploy/bin:/opt/llama.cpp:$PATH \
    HF_HOME=/cache/huggingface \
    CLEARML_DEPLOY_CACHE=/cache/clearml-deploy \
    HEALTH_URL=http://127.0.0.1:8800/health \
    CLEARML_AGENT_SKIP_PYTHON_ENV_INSTALL=1 \
    CLEARML_AGENT_SKIP_CONTAINER_APT=1 \
    CLEARML_AGENT_NO_UPDATE=1
# A library that is missing is noticed here. The driver's comes from the host.
RUN { ldd /opt/llama.cpp/* | grep 'not found' | grep -v 'libcuda\.so\.1' && exit 1; } || llama-server --version
USER 10001:10001
WORKDIR /home/deploy
EXPOSE 8800
HEALTHCHECK --interval=15s --timeout=5s --start-period=120s --retries=4 \
    CMD ["bash", "-c", "curl --fail --silent --show-error --output /dev/null --max-time 4 $HEALTH_URL"]
ENTRYPOINT ["tini", "--", "clearml-deploy-entrypoint"]
CMD ["run", "llamacpp"]
