# Serve compiled bundles: numpy, Pillow, the TVM runtime and the endpoint; no PyTorch, no MLflow, no compiler.
#
#   docker run -p 8080:8080 -v "$PWD":/work lab-serve:0.1.0 serve my_endpoint.yaml host=0.0.0.0
#
# Build from the repository's top: docker/build.sh. BASE_IMAGE may be any Debian or Ubuntu with Python 3.11-3.13.
ARG BASE_IMAGE=python:3.12.11-slim-bookworm

# hadolint ignore=DL3006
FROM ${BASE_IMAGE} AS build
ENV PIP_NO_CACHE_DIR=1 \
    PIP_DISABLE_PIP_VERSION_CHECK=1 \
    PATH=/opt/lab/bin:${PATH}
WORKDIR /opt/source
COPY pyproject.toml constraints.txt README.md LICENSE ./
RUN python3 -m venv /opt/lab \
 && mkdir lab && touch lab/__init__.py \
 && pip install -c constraints.txt ".[runtime,serve]" \
 && rm -rf lab build ./*.egg-info
COPY lab ./lab
# The compiler's library (259 MB), headers and sources are of no use at run time; the last lines prove that nothing else
# went with them, and that nothing heavy came in.
RUN pip install --no-deps --force-reinstall . \
 && tvm="$(python -c 'from importlib.metadata import distribution; print(distribution("apache-tvm").locate_file("tvm"))')" \
 && rm -rf "${tvm}/lib/libtvm_compiler.so" "${tvm}/include" "${tvm}/src" "${tvm}/3rdparty" "${tvm}/web" \
 && pip uninstall --yes pip \
 && find /opt/lab -name __pycache__ -prune -exec rm -rf {} + \
 && python -c 'from tvm.runtime.vm import VirtualMachine' \
 && python -c 'import importlib.util as u; assert not any(map(u.find_spec, ("torch", "mlflow", "onnxruntime")))' \
 && lab --version

# hadolint ignore=DL3006
FROM ${BASE_IMAGE}
RUN groupadd --gid 10001 lab && useradd --no-log-init --uid 10001 --gid 10001 --create-home lab
COPY --from=build /opt/lab /opt/lab
ENV PATH=/opt/lab/bin:${PATH} \
    PYTHONUNBUFFERED=1
WORKDIR /work
USER 10001:10001
EXPOSE 8080
HEALTHCHECK NONE
ENTRYPOINT ["lab"]
CMD ["serve", "--help"]
