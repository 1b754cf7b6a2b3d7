# The image of the older form: the engine is vLLM's, so it is vLLM's image with another default. After
# docker/vllm.Dockerfile, whose build arguments say which vLLM, with or without CUDA:
#   docker build -f docker/legacy_model.Dockerfile -t clearml-deploy-legacy-model docker
ARG vllm_version=0.32.0
ARG vllm_image=clearml-deploy-vllm:${vllm_version}

FROM ${vllm_image}
USER 10001:10001
HEALTHCHECK --interval=15s --timeout=5s --start-period=120s --retries=4 \
    CMD ["bash", "-c", "curl --fail --silent --show-error --output /dev/null --max-time 4 $HEALTH_URL"]
CMD ["run", "legacy_model"]
