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

# --- The packages that the project is made for, and the sources --------------------------------------------------------
# hadolint ignore=DL3006
FROM ${DEBIAN} AS build
SHELL ["/bin/bash", "-euo", "pipefail", "-c"]
WORKDIR /src
COPY deploy/setup.sh deploy/
# hadolint ignore=SC2154
RUN . deploy/setup.sh && apt-get update && \
    DEBIAN_FRONTEND=noninteractive apt-get install --yes --no-install-recommends "${daemon_packages[@]}" tini && \
    rm -rf /var/lib/apt/lists/*
COPY . .

# --- Daemon, client and what is around them ----------------------------------------------------------------------------
FROM build AS build-cpu
SHELL ["/bin/bash", "-euo", "pipefail", "-c"]
RUN cmake --preset release -DMAMBAD_TESTS=OFF -DMAMBAD_TRAINER=OFF -DMAMBAD_CUDA=OFF && \
    cmake --build build && \
    DESTDIR=/image cmake --install build --prefix /usr --strip && \
    deploy/image_files.sh /image

# --- The module for GPUs -----------------------------------------------------------------------------------------------
# hadolint ignore=DL3006
FROM ${CUDA} AS toolkit
FROM build AS build-gpu
SHELL ["/bin/bash", "-euo", "pipefail", "-c"]
# As CMake's CUDA_ARCHITECTURES, such as 90a-real. Empty: what the module is made for, on every supported GPU.
ARG CUDA_ARCHITECTURES=
RUN --mount=type=bind,from=toolkit,source=/usr/local,target=/toolkit \
    CUDACXX=$(echo /toolkit/cuda-*.*/bin/nvcc) && export CUDACXX && \
    cmake --preset release -DMAMBAD_TESTS=OFF -DMAMBAD_TRAINER=OFF -DMAMBAD_CUDA=ON \
      ${CUDA_ARCHITECTURES:+"-DMAMBAD_CUDA_MODULE_ARCHITECTURES=${CUDA_ARCHITECTURES}"} && \
    cmake --build build --target mambad_cuda && \
    strip -o /libmambad_cuda.so build/bin/libmambad_cuda.so && \
    ! ldd /libmambad_cuda.so | grep 'not found'

# --- The trainer -------------------------------------------------------------------------------------------------------
# PyTorch whole, as it was published: for its libraries, and for torchrun, which starts a process on each GPU.
# hadolint ignore=DL3006
FROM ${DEBIAN} AS torch
SHELL ["/bin/bash", "-euo", "pipefail", "-c"]
RUN --mount=type=bind,source=trainer/setup.sh,target=/setup.sh \
    apt-get update && apt-get install --yes --no-install-recommends gnuplot-nox python3-venv tini && \
    rm -rf /var/lib/apt/lists/* && \
    python3 -m venv /opt/torch && \
    /opt/torch/bin/pip install --no-cache-dir --disable-pip-version-check "$(grep -o 'torch==[0-9.]*' /setup.sh | head -1)"

FROM build AS build-trainer
SHELL ["/bin/bash", "-euo", "pipefail", "-c"]
RUN --mount=type=bind,from=toolkit,source=/usr/local,target=/toolkit \
    --mount=type=bind,from=torch,source=/opt/torch,target=/opt/torch \
    CUDACXX=$(echo /toolkit/cuda-*.*/bin/nvcc) && export CUDACXX && \
    apt-get update && apt-get install --yes --no-install-recommends libgloo-dev zlib1g-dev liblzma-dev python3 && \
    rm -rf /var/lib/apt/lists/* && \
    cmake --preset release -DMAMBAD_TESTS=OFF -DMAMBAD_TRAINER=ON -DMAMBAD_CUDA=ON \
      -DMAMBAD_TORCH_DIR="$(echo /opt/torch/lib/python3.*/site-packages/torch)" && \
    cmake --build build --target trainer && \
    strip -o /trainer build/bin/trainer && \
    ldd /trainer | awk '$2 == "=>" && $3 ~ "^/" && $3 !~ "^/(opt|toolkit)/" {print $3}' | xargs realpath | \
      while read -r file; do dpkg --search "$file" 2>/dev/null || dpkg --search "${file#/usr}"; done | \
      cut -d: -f1 | sort -u >/packages

FROM torch AS trainer
SHELL ["/bin/bash", "-euo", "pipefail", "-c"]
RUN --mount=type=bind,from=build-trainer,source=/packages,target=/packages \
    apt-get update && xargs --arg-file=/packages apt-get install --yes --no-install-recommends && \
    rm -rf /var/lib/apt/lists/*
COPY --from=build-trainer /trainer /usr/bin/trainer
# Its libraries are where they were when it was linked.
RUN trainer --version
ENV PATH=/opt/torch/bin:/usr/bin:/bin NVIDIA_VISIBLE_DEVICES=all NVIDIA_DRIVER_CAPABILITIES=compute,utility
LABEL org.opencontainers.image.title="mambad trainer" \
      org.opencontainers.image.description="Makes the models that mambad serves" \
      org.opencontainers.image.licenses="Apache-2.0"
USER 10001:10001
WORKDIR /training
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
COPY --from=build-gpu /libmambad_cuda.so /usr/lib/mambad/
# The container runtime brings the driver's libraries in when the container is given GPUs.
ENV NVIDIA_VISIBLE_DEVICES=all NVIDIA_DRIVER_CAPABILITIES=compute,utility
