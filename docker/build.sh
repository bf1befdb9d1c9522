#!/usr/bin/env bash
# Build the images with Docker: docker/build.sh [train|serve ...], both by default.
# TRAIN_BASE and SERVE_BASE name other base images; EXTRA_PACKAGES goes into the training image.
set -euo pipefail
cd "$(dirname "$0")/.."

if ! docker info >/dev/null 2>&1; then
  echo "no Docker daemon answers here; make docker-check builds and tries the same files without one" >&2
  exit 1
fi

version=$(sed -n 's/^version = "\(.*\)"/\1/p' pyproject.toml)
[ $# -gt 0 ] || set -- train serve
for image in "$@"; do
  arguments=()
  case $image in
    train)
      arguments+=(--build-arg "UID=$(id -u)" --build-arg "GID=$(id -g)")
      [ -z "${TRAIN_BASE:-}" ] || arguments+=(--build-arg "BASE_IMAGE=$TRAIN_BASE")
      [ -z "${EXTRA_PACKAGES:-}" ] || arguments+=(--build-arg "EXTRA_PACKAGES=$EXTRA_PACKAGES")
      ;;
    serve) [ -z "${SERVE_BASE:-}" ] || arguments+=(--build-arg "BASE_IMAGE=$SERVE_BASE") ;;
    *) echo "unknown image '$image': train or serve" >&2; exit 2 ;;
  esac
  echo "== building lab-$image:$version"
  DOCKER_BUILDKIT=1 docker build "${arguments[@]}" -f "docker/$image.Dockerfile" -t "lab-$image:$version" .
done
