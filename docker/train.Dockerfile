# Train, export, compile and track: everything of the lab. Build from the repository's top: docker/build.sh
# BASE_IMAGE may be any Debian or Ubuntu with Python 3.11-3.13. PyTorch's wheels bring the CUDA libraries themselves, so
# the base need only carry the driver's hooks ("base", not "runtime" or "devel"); its CUDA version is the one torch uses.
ARG BASE_IMAGE=nvidia/cuda:13.0.1-base-ubuntu24.04

# hadolint ignore=DL3006
FROM ${BASE_IMAGE}

# More packages for special needs, e.g. "g++-aarch64-linux-gnu qemu-user-static" to compile for ARM in the container.
ARG EXTRA_PACKAGES=""
# g++ links what TVM and torch.compile generate. Versions come with the pinned base: distributions delete older ones.
# hadolint ignore=DL3008,SC2086
RUN apt-get update \
 && DEBIAN_FRONTEND=noninteractive apt-get install -y --no-install-recommends \
      ca-certificates g++ python3 python3-dev python3-venv ${EXTRA_PACKAGES} \
 && rm -rf /var/lib/apt/lists/*

# The files mounted from outside (runs/, data/) belong to whoever builds; build.sh passes that person's ids.
ARG UID=1000
ARG GID=1000
RUN groupadd --non-unique --gid "${GID}" lab \
 && useradd --no-log-init --non-unique --uid "${UID}" --gid "${GID}" --create-home lab \
 && install -d -o "${UID}" -g "${GID}" /work /work/runs /work/data /mlflow

ENV PATH=/opt/lab/bin:${PATH} \
    PIP_NO_CACHE_DIR=1 \
    PIP_DISABLE_PIP_VERSION_CHECK=1 \
    PYTHONUNBUFFERED=1

# Dependencies first, from the files that name them alone: a change of the code does not install PyTorch again. The
# empty package and what was built of it go at once: setuptools would take them for newer than the real files.
WORKDIR /opt/source
COPY pyproject.toml constraints.txt README.md LICENSE ./
RUN python3 -m venv /opt/lab \
 && mkdir lab && touch lab/__init__.py \
 && pip install -c constraints.txt ".[all]" \
 && rm -rf lab build ./*.egg-info

COPY lab ./lab
RUN pip install --no-deps --force-reinstall . && lab --version

WORKDIR /work
COPY configs ./configs
USER ${UID}:${GID}
HEALTHCHECK NONE
ENTRYPOINT ["lab"]
CMD ["--help"]
