#!/usr/bin/env bash
# Build and try the images where there is no Docker daemon: docker/check.sh [serve|train ...], both by default.
#
# The same Dockerfiles, built by buildah on a base image that debootstrap makes from this machine's own distribution and
# package sources. Then, in the result: `lab doctor`, that the user is not root, and for the training image one step of
# training. Needs root, buildah and debootstrap; about 3 GB of disk for serve, 25 GB and ten minutes for train.
#
#   WORK=folder            where the images are kept while this runs (default: a temporary folder, removed at the end)
#   SMOKE="train ..."      the command of the training step (default: one step of the smoke configuration)
#   SMOKE_DATA=folder      data folder mounted into the training image (default: data/ where it exists)
set -euo pipefail
cd "$(dirname "$0")/.."

SMOKE=${SMOKE:-train configs/classification/smoke.yaml train.epochs=1 train.limit_train_batches=1 tracking.enabled=false}
SMOKE_DATA=${SMOKE_DATA:-data}

# Every image is kept whole, layer by layer (vfs), so building needs several times what the image takes.
minimum_gb() {
  case $1 in
    serve) echo 4 ;;
    train) echo 25 ;;
    *) echo "unknown image '$1': train or serve" >&2; exit 2 ;;
  esac
}

need() {
  command -v "$1" >/dev/null || { echo "$1 is missing: apt-get install $1" >&2; exit 1; }
}

if [ "$(id -u)" != 0 ]; then
  echo "building without a daemon needs root here (debootstrap and chroot): sudo $0 $*" >&2
  exit 1
fi
need buildah
need debootstrap
if [ $# -eq 0 ]; then set -- serve train; fi

if [ -n "${WORK:-}" ]; then
  mkdir -p "$WORK"
else
  WORK=$(mktemp -d)
  trap 'rm -rf "$WORK"' EXIT
fi
storage=(buildah --root "$WORK/containers" --runroot "$WORK/runroot" --storage-driver vfs)

# The package index, certificates and proxies this machine uses, as one pip configuration; it and the files it names are
# mounted while building, never copied into an image.
pip_configuration() {
  { echo "[global]"; python3 -m pip config list; } | python3 -c '
import ast, pathlib, sys
print(sys.stdin.readline().strip())
settings = {}
for line in sys.stdin:
    key, _, value = line.strip().partition("=")
    settings[key.rpartition(".")[2]] = ast.literal_eval(value)
mounts = set()
certificates = pathlib.Path(settings.pop("cert", "/etc/ssl/certs/ca-certificates.crt"))
if certificates.exists():
    # Not at its own place: there, the distribution could not update it while building.
    settings["cert"] = "/etc/lab-check.crt"
    pathlib.Path(sys.argv[1]).write_bytes(certificates.read_bytes())
for key, value in settings.items():
    print(key, "=", value.replace("\n", "\n  "))
    for word in value.split():
        # The pages of an index in a folder link to files beside that folder.
        mounts.add(str(pathlib.Path(word[7:]).parent) if word.startswith("file://") else word)
for path in sorted(mounts):
    if path.startswith("/") and pathlib.Path(path).exists():
        print(path, file=sys.stderr)' "$WORK/certificates" > "$WORK/pip.conf" 2> "$WORK/pip.mounts"
}

# Distribution packages come from where this machine gets them.
make_base() {
  "${storage[@]}" inspect --type image lab-base:check >/dev/null 2>&1 && return
  local codename mirror container
  # shellcheck source=/dev/null
  codename=$(. /etc/os-release && echo "$VERSION_CODENAME")
  # shellcheck disable=SC2016  # apt expands these names
  mirror=$(apt-get indextargets --format '$(RELEASE) $(REPO_URI)' 'Created-By: Packages' |
    awk -v codename="$codename" '$1 == codename { print $2; exit }')
  echo "== base image: $codename from this machine's package source"
  debootstrap --variant=minbase --include=ca-certificates,python3,python3-venv \
    "$codename" "$WORK/base" "$mirror" > "$WORK/debootstrap.log" || { tail -n 20 "$WORK/debootstrap.log" >&2; exit 1; }
  copy_apt_configuration
  rm -rf "$WORK"/base/var/cache/apt/archives/*.deb "$WORK"/base/var/lib/apt/lists/*
  container=$("${storage[@]}" from scratch)
  "${storage[@]}" add --quiet "$container" "$WORK/base" / > /dev/null
  "${storage[@]}" commit --quiet --rm "$container" lab-base:check > /dev/null
  rm -rf "$WORK/base"
}

copy_apt_configuration() {
  local file
  rm -f "$WORK/base/etc/apt/sources.list"
  for file in /etc/apt/sources.list /etc/apt/sources.list.d /etc/apt/auth.conf.d /etc/apt/keyrings /etc/apt/trusted.gpg.d; do
    [ ! -e "$file" ] || cp -a "$file" "$WORK/base/etc/apt/"
  done
  echo 'Acquire::https::CAInfo "/etc/lab-check.crt";' > "$WORK/base/etc/apt/apt.conf.d/99lab-check"
  # Only how to fetch: other settings call programs that the base does not have.
  while IFS= read -r file; do
    cp "$file" "$WORK/base/etc/apt/apt.conf.d/"
  done < <(grep -lE '^ *Acquire::' /etc/apt/apt.conf.d/* || true)
}

build() {
  local path volumes=(--volume "$WORK/pip.conf:/etc/pip.conf:ro")
  [ ! -f "$WORK/certificates" ] || volumes+=(--volume "$WORK/certificates:/etc/lab-check.crt:ro")
  while IFS= read -r path; do volumes+=(--volume "$path:$path:ro"); done < "$WORK/pip.mounts"
  echo "== building $1"
  "${storage[@]}" bud --isolation chroot "${volumes[@]}" --build-arg BASE_IMAGE=localhost/lab-base:check \
    --ignorefile "docker/$1.Dockerfile.dockerignore" -f "docker/$1.Dockerfile" -t "lab-$1:check" . \
    > "$WORK/build-$1.log" 2>&1 || { tail -n 40 "$WORK/build-$1.log" >&2; exit 1; }
  echo "$1: $("${storage[@]}" images --format '{{.Size}}' "lab-$1:check")"
}

# in_image IMAGE [buildah run options] -- COMMAND...
in_image() {
  local image=$1 container code=0
  shift
  container=$("${storage[@]}" from --pull-never "localhost/lab-$image:check")
  "${storage[@]}" run --isolation chroot "${@:1:$(separator "$@")}" "$container" "${@:$(separator "$@")+1}" || code=$?
  "${storage[@]}" rm "$container" > /dev/null
  return "$code"
}

separator() {
  local position=0 word
  for word in "$@"; do
    [ "$word" != -- ] || break
    position=$((position + 1))
  done
  echo "$position"
}

check() {
  [ "$(in_image "$1" -- id -u)" != 0 ] || { echo "the $1 image runs as root" >&2; exit 1; }
  echo "== lab doctor in $1"
  in_image "$1" -- lab doctor
}

check_training() {
  local mounts=()
  [ ! -d "$SMOKE_DATA" ] || mounts+=(--volume "$(realpath "$SMOKE_DATA"):/work/data:ro")
  echo "== one training step: lab $SMOKE"
  # shellcheck disable=SC2086  # SMOKE is a command line
  in_image train "${mounts[@]}" -- lab $SMOKE
}

for image in "$@"; do
  minimum=$(minimum_gb "$image")
  free_gb=$(($(stat -f -c '%a * %S' "$WORK") / 1000000000))
  [ "$free_gb" -ge "$minimum" ] || { echo "$image needs $minimum GB at $WORK, $free_gb GB are free" >&2; exit 1; }
done
pip_configuration
make_base
for image in "$@"; do
  build "$image"
  check "$image"
  [ "$image" != train ] || check_training
done
echo "== all well: $*"
