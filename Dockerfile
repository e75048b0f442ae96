# mambad in an image, on the story model of this repository: on an NVIDIA GPU where the container is given one, else on the
# CPU. What is in it, and how it is run: deploy/README.md
#
#   docker build -t mambad .
#   docker build -t mambad:cpu --build-arg BACKEND=cpu .       without the module for GPUs; needs no CUDA to build
ARG BACKEND=cuda

# --- The CUDA compiler, which the build looks into --------------------------------------------------------------------
FROM nvidia/cuda:13.0.1-devel-ubuntu24.04 AS toolkit-cuda
FROM debian:12-slim AS toolkit-cpu
# hadolint ignore=DL3006
FROM toolkit-${BACKEND} AS toolkit

# --- The build, with the packages that the project is made for ---------------------------------------------------------
FROM debian:12-slim AS build
SHELL ["/bin/bash", "-euo", "pipefail", "-c"]
WORKDIR /src
COPY deploy/setup.sh deploy/
# hadolint ignore=SC2154
RUN . deploy/setup.sh && apt-get update && \
    DEBIAN_FRONTEND=noninteractive apt-get install --yes --no-install-recommends "${daemon_packages[@]}" && \
    rm -rf /var/lib/apt/lists/*
COPY . .
ARG BACKEND
RUN --mount=type=bind,from=toolkit,source=/usr/local,target=/toolkit \
    case $BACKEND in \
      cuda) cuda=ON; CUDACXX=$(echo /toolkit/cuda-*.*/bin/nvcc); export CUDACXX ;; \
      *) cuda=OFF ;; \
    esac && \
    cmake --preset release -DMAMBAD_TESTS=OFF -DMAMBAD_TRAINER=OFF -DMAMBAD_CUDA=$cuda && \
    cmake --build build --target mambad mambactl mambad-models mambad_sentencepiece && \
    if [ $cuda = ON ]; then cmake --build build --target mambad_cuda; fi && \
    DESTDIR=/image cmake --install build --prefix /usr --strip

# What goes along: the story model, of the programs those that serve; a configuration that other machines can call. And the
# packages whose libraries they are linked with.
RUN rm -rf /image/usr/bin/mambad-models /image/usr/share/mambad/models/smollm2 \
      /image/usr/share/mambad/models/stories/recipe && \
    sed -i -E -e 's/^( *listen: ")127\.0\.0\.1:/\10.0.0.0:/' -e 's/^(allow_insecure: )false/\1true/' \
      /image/etc/mambad/mambad.yaml && \
    grep -cE '0\.0\.0\.0:|^allow_insecure: true' /image/etc/mambad/mambad.yaml | grep -qx 3 && \
    ldd /image/usr/bin/* /image/usr/lib/mambad/* | awk '$2 == "=>" && $3 ~ "^/" {print $3}' | sort -u | \
      xargs realpath | \
      while read -r file; do dpkg --search "$file" 2>/dev/null || dpkg --search "${file#/usr}"; done | \
      cut -d: -f1 | sort -u >/packages

# --- The image ---------------------------------------------------------------------------------------------------------
FROM debian:12-slim
SHELL ["/bin/bash", "-euo", "pipefail", "-c"]
RUN --mount=type=bind,from=build,source=/packages,target=/packages \
    apt-get update && \
    xargs --arg-file=/packages apt-get install --yes --no-install-recommends && \
    rm -rf /var/lib/apt/lists/* /var/cache/apt /var/log/apt /var/log/dpkg.log
COPY --from=build /image /
# Nothing is missing: all that a start needs but its ports and the weights is looked at.
RUN mambad --check-config --model /usr/share/mambad/models/stories/target --draft /usr/share/mambad/models/stories/draft

# The container runtime brings the driver's libraries in when the container is given GPUs.
ENV NVIDIA_VISIBLE_DEVICES=all NVIDIA_DRIVER_CAPABILITIES=compute,utility
USER 10001:10001
EXPOSE 50051 9464
STOPSIGNAL SIGTERM
# Weights may take minutes to come from a slow disk.
HEALTHCHECK --interval=10s --timeout=5s --start-period=10m CMD ["mambactl", "health"]
ENTRYPOINT ["mambad", "--config", "/etc/mambad/mambad.yaml"]
CMD ["--model", "/usr/share/mambad/models/stories/target", "--draft", "/usr/share/mambad/models/stories/draft"]
