#!/usr/bin/env bash
# Builds the documentation as a site, with search, into OUT. A broken link fails.
#
#   build.sh OUT
#
# MkDocs is installed into the cache, by the distribution's Python.
set -euo pipefail

here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
out=${1:?names the directory for the site}
cache=${LIGHTER_CACHE:-${XDG_CACHE_HOME:-$HOME/.cache}/lighter}
tool=$cache/mkdocs
key=$(sha256sum <"$here/requirements.txt")

if [ "$(cat "$tool/.key" 2>/dev/null)" != "$key" ]; then
    rm -rf "$tool"
    /usr/bin/python3 -m venv "$tool"
    "$tool/bin/pip" install --quiet --disable-pip-version-check --require-hashes \
        -r "$here/requirements.txt"
    echo "$key" >"$tool/.key"
fi
# The theme's banner on its successor.
export NO_MKDOCS_2_WARNING=1
"$tool/bin/mkdocs" build --quiet --strict --clean -f "$here/mkdocs.yml" -d "$(realpath -m "$out")"
echo "site: $out/index.html"
