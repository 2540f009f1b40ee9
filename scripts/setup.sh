#!/bin/sh
# Makes .venv ready, or does nothing if it already is. `make` calls this before anything else.
#
# Ready means: .venv/.ready holds the checksum of what the environment was made from. It is written last, so an
# installation that was interrupted is made anew. The folder is part of the sum: an editable installation that
# was copied elsewhere would go on importing the tree that it came from.
set -eu
cd "$(dirname "$0")/.."
python=${PYTHON:-python3}
wanted=$( (pwd; cat pyproject.toml constraints.txt) | cksum)

stop() {
    printf 'tapetum: %s\n' "$@" >&2
    exit 1
}

if [ -f .venv/.ready ] && [ "$(cat .venv/.ready)" = "$wanted" ]; then
    exit 0
fi

command -v "$python" > /dev/null || stop \
    "$python is not installed; on Debian and Ubuntu type:" \
    "  sudo apt-get install python3 python3-venv"
version=$("$python" -c 'import sys; print("%d.%d" % sys.version_info[:2])')
case $version in
    3.11 | 3.12 | 3.13) ;;
    *) stop \
        "$python is Python $version; tapetum needs 3.11, 3.12 or 3.13." \
        "Install one of them and name it, for example:" \
        "  make train PYTHON=python3.12" ;;
esac

if ! command -v uv > /dev/null && ! "$python" -c 'import ensurepip, venv' 2> /dev/null; then
    stop \
        "$python has no venv module; on Debian and Ubuntu type:" \
        "  sudo apt-get install $(basename "$python")-venv"
fi

rm -f .venv/.ready
rm -rf .venv
echo "tapetum: making .venv with Python $version; about two minutes and 7 GB, once"
if command -v uv > /dev/null; then
    uv venv --quiet --python "$(command -v "$python")" .venv
    uv pip install --python .venv/bin/python -c constraints.txt -e '.[dev]'
else
    "$python" -m venv .venv
    .venv/bin/python -m pip install --disable-pip-version-check -c constraints.txt -e '.[dev]'
fi

.venv/bin/python -c 'import torchvision' || stop \
    "torchvision cannot be imported (see above): it and torch do not belong together." \
    "Check that constraints.txt pins a pair that does, and that no index in your pip or uv settings offers" \
    "another build of torch. .venv will be made anew next time."
printf '%s\n' "$wanted" > .venv/.ready
