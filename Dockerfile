# mambad in an image, on the story model of this repository. What is in each, and how it is run: deploy/README.md
#
#   docker build -t mambad .                            for hosts with and without an NVIDIA GPU
#   docker build -t mambad:cpu --target cpu .           without the module for GPUs; needs no CUDA to build
#   docker build -t mambad-trainer --target trainer .   what makes the models
#
# Bases may be pinned to digests, or taken from another registry: --build-arg DEBIAN=registry/debian:12-slim@sha256:...
ARG DEBIAN=debian:12-slim
# Where its compiler comes from; nothing of it is in the images.
ARG CUDA=nvidia/cuda:13.0.1-devel-ubuntu24.04

# --- The build, with the packages that the project is made for ---------------------------------------------------------
# hadolint ignore=DL3006
FROM ${DEBIAN} AS build-cpu
SHELL ["/bin/bash", "-euo", "pipefail", "-c"]
WORKDIR /src
COPY deploy/setup.sh deploy/
# hadolint ignore=SC2154
RUN . deploy/setup.sh && apt-get update && \
    DEBIAN_FRONTEND=noninteractive apt-get install --yes --no-install-recommends "${daemon_packages[@]}" tini && \
    rm -rf /var/lib/apt/lists/*
COPY . .
RUN cmake --preset release -DMAMBAD_TESTS=OFF -DMAMBAD_TRAINER=OFF -DMAMBAD_CUDA=OFF && \
    cmake --build build && \
    DESTDIR=/image cmake --install build --prefix /usr --strip && \
    deploy/image_files.sh /image

# --- The module for GPUs, beside what is there -------------------------------------------------------------------------
# hadolint ignore=DL3006
FROM ${CUDA} AS toolkit
FROM build-cpu AS build-gpu
SHELL ["/bin/bash", "-euo", "pipefail", "-c"]
RUN --mount=type=bind,from=toolkit,source=/usr/local,target=/toolkit \
    CUDACXX=$(echo /toolkit/cuda-*.*/bin/nvcc) && export CUDACXX && \
    cmake --preset release -B build-cuda -DMAMBAD_TESTS=OFF -DMAMBAD_TRAINER=OFF -DMAMBAD_CUDA=ON && \
    cmake --build build-cuda --target mambad_cuda && \
    strip -o /image/usr/lib/mambad/libmambad_cuda.so build-cuda/bin/libmambad_cuda.so && \
    ! ldd /image/usr/lib/mambad/libmambad_cuda.so | grep 'not found'

# --- The trainer -------------------------------------------------------------------------------------------------------
FROM build-cpu AS build-trainer
SHELL ["/bin/bash", "-euo", "pipefail", "-c"]
# hadolint ignore=DL3042
RUN --mount=type=bind,from=toolkit,source=/usr/local,target=/toolkit \
    CUDACXX=$(echo /toolkit/cuda-*.*/bin/nvcc) && export CUDACXX && \
    apt-get update && trainer/setup.sh && rm -rf /var/lib/apt/lists/* && \
    cmake --preset release -B build-trainer -DMAMBAD_TESTS=OFF -DMAMBAD_TRAINER=ON -DMAMBAD_CUDA=ON \
      -DMAMBAD_TORCH_DIR=/src/build/torch/torch && \
    cmake --build build-trainer --target trainer && \
    strip -o /trainer build-trainer/bin/trainer && \
    grep -o 'torch==[0-9.]*' trainer/setup.sh | head -1 >/torch && \
    ldd /trainer | awk '$2 == "=>" && $3 ~ "^/" && $3 !~ "/(src|toolkit)/" {print $3}' | xargs realpath | \
      while read -r file; do dpkg --search "$file" 2>/dev/null || dpkg --search "${file#/usr}"; done | \
      cut -d: -f1 | sort -u >/packages

# PyTorch whole, for its CUDA libraries and for torchrun, which starts a process on each GPU.
# hadolint ignore=DL3006
FROM ${DEBIAN} AS trainer
SHELL ["/bin/bash", "-euo", "pipefail", "-c"]
# hadolint ignore=DL3013,SC2046
RUN --mount=type=bind,from=build-trainer,source=/packages,target=/packages \
    --mount=type=bind,from=build-trainer,source=/torch,target=/torch \
    apt-get update && \
    apt-get install --yes --no-install-recommends $(cat /packages) gnuplot-nox python3-venv tini && \
    rm -rf /var/lib/apt/lists/* && \
    python3 -m venv /opt/torch && \
    /opt/torch/bin/pip install --no-cache-dir --disable-pip-version-check "$(cat /torch)"
COPY --from=build-trainer /trainer /usr/bin/trainer
ENV PATH=/opt/torch/bin:/usr/bin:/bin PACKAGES=/opt/torch/lib/python3.11/site-packages
ENV LD_LIBRARY_PATH=${PACKAGES}/torch/lib:${PACKAGES}/nvidia/cu13/lib \
    NVIDIA_VISIBLE_DEVICES=all NVIDIA_DRIVER_CAPABILITIES=compute,utility
RUN trainer --version
LABEL org.opencontainers.image.title="mambad trainer" \
      org.opencontainers.image.description="Makes the models that mambad serves" \
      org.opencontainers.image.licenses="Apache-2.0"
USER 10001:10001
WORKDIR /work
ENTRYPOINT ["tini", "--", "trainer"]
CMD ["--help"]

# --- The image without a module for GPUs -------------------------------------------------------------------------------
FROM scratch AS cpu
COPY --from=build-cpu /image /
# Nothing is missing: all that a start needs but its ports and the weights is looked at.
RUN ["/usr/bin/mambad", "--check-config", "--model", "/usr/share/mambad/models/stories/target", \
     "--draft", "/usr/share/mambad/models/stories/draft"]
ARG VERSION=0.1.0
ARG REVISION=unknown
LABEL org.opencontainers.image.title="mambad" \
      org.opencontainers.image.description="A gRPC server of language models, with exact speculative decoding" \
      org.opencontainers.image.licenses="Apache-2.0" \
      org.opencontainers.image.version="${VERSION}" \
      org.opencontainers.image.revision="${REVISION}"
ENV PATH=/usr/bin
USER 10001:10001
WORKDIR /var/lib/mambad
EXPOSE 50051 9464
STOPSIGNAL SIGTERM
# Weights may take minutes to come from a slow disk.
HEALTHCHECK --interval=10s --timeout=5s --start-period=10m CMD ["mambactl", "health"]
ENTRYPOINT ["tini", "--", "mambad", "--config", "/etc/mambad/mambad.yaml"]
CMD ["--model", "/usr/share/mambad/models/stories/target", "--draft", "/usr/share/mambad/models/stories/draft"]

# --- The image ---------------------------------------------------------------------------------------------------------
FROM cpu AS gpu
COPY --from=build-gpu /image/usr/lib/mambad/libmambad_cuda.so /usr/lib/mambad/
# The container runtime brings the driver's libraries in when the container is given GPUs.
ENV NVIDIA_VISIBLE_DEVICES=all NVIDIA_DRIVER_CAPABILITIES=compute,utility
