#!/usr/bin/python3
"""Executes the fenced blocks of Markdown pages that are marked for it.

    blocks.py MARK [PAGE...]     by default the README and all tutorials

A block `sh MARK` is a part of its page's script: the blocks of a page run in one shell, in a
new directory that has the clone as `lighter`. A block `text output` behind one has lines
that it has to have printed, in this order. MARK is `runnable` or `cluster`; blocks `sh by=NAME`
are executed elsewhere (`ci` by .ci/run, `kubernetes` by make test-k8s), or by nobody but a reader.
"""

import os
import pathlib
import re
import subprocess
import sys
import tempfile
import time

ROOT = pathlib.Path(os.environ["CLONE"])
LIMIT = 1200  # seconds for a page

PRELUDE = {
    "runnable": "",
    # What stands for kind is a node of this machine.
    "cluster": """
        PATH=$PATH:$LIGHTER_BIN
        kind() { ctr -n k8s.io images import "${@: -1}"; }
        # What a reader pulls from a registry.
        lighter pack /bin/busybox --form native --name docker.io/library/busybox:stable \
            --entrypoint /bin/sh --env PATH=/bin -o busybox.tar \
            --file /bin/busybox:/bin/sh:755 --file /bin/busybox:/bin/sleep:755 \
            --file /bin/busybox:/bin/uname:755 >busybox.log
        kind load image-archive busybox.tar >>busybox.log
        rm busybox.*
    """,
}


def blocks(text):
    """Each fenced block: its line, its info string and its body."""
    fence, line, info, body = None, 0, "", []
    for number, each in enumerate(text.splitlines(), 1):
        found = re.match(r"(`{3,})(.*)", each)
        if fence is None and found:
            fence, line, info, body = found[1], number, found[2].strip(), []
        elif fence is not None and each.startswith(fence):
            yield line, info, "\n".join(body) + "\n"
            fence = None
        elif fence is not None:
            body.append(each)


def steps(page, mark):
    """The blocks to execute, each with the lines that it has to print."""
    found = []
    last = None
    for line, info, body in blocks(page.read_text()):
        if info == f"sh {mark}":
            last = (line, body, [])
            found.append(last)
        elif info == "text output" and last is not None:
            last[2].extend(body.splitlines())
        elif info.startswith("sh"):
            last = None
    return found


def missing(expected, output):
    """The first line that is not there, in this order."""
    lines = iter(output.splitlines())
    for want in expected:
        if not any(want in line for line in lines):
            return want
    return None


def clone(directory):
    """The clone as a reader has it, with its target directory in it."""
    directory.mkdir()
    for entry in ROOT.iterdir():
        if entry.name != "target":
            (directory / entry.name).symlink_to(entry)
    (directory / "target").symlink_to(os.environ["TARGET"])


def run(page, mark):
    """Whether all blocks of a page did what it says; None if it has none."""
    found = steps(page, mark)
    if not found:
        return None
    name = page.relative_to(ROOT)
    with tempfile.TemporaryDirectory(prefix="lighter-docs-") as place:
        place = pathlib.Path(place)
        work = place / "work"
        work.mkdir()
        clone(work / "lighter")
        script = ["set -euo pipefail", PRELUDE[mark]]
        for number, (line, body, _) in enumerate(found):
            script += [f"exec >{place}/{number} 2>&1", f"# line {line}", body]
        (place / "script").write_text("\n".join(script))
        begin = time.monotonic()
        try:
            # As a reader's shell, which has pip, npm and Go say nothing of a terminal.
            status = subprocess.run(
                ["bash", str(place / "script")],
                cwd=work, stdin=subprocess.DEVNULL, timeout=LIMIT, check=False,
            ).returncode
        except subprocess.TimeoutExpired:
            status = f"none after {LIMIT} s"
        seconds = time.monotonic() - begin
        executed = [number for number in range(len(found)) if (place / str(number)).exists()]
        for number in executed:
            line, body, expected = found[number]
            output = (place / str(number)).read_text(errors="replace")
            failed = status != 0 and number == executed[-1]
            absent = missing(expected, output)
            if failed or absent is not None:
                reason = f"exit status {status}" if failed else f"no line {absent!r}"
                print(f"{name}:{line}: {reason}\n--- commands\n{body}--- output\n{output}---")
                print(f"FAILED {name}", flush=True)
                return False
    print(f"ok {name}: {len(found)} blocks, {seconds:.0f} s", flush=True)
    return True


def main():
    mark, pages = sys.argv[1], [pathlib.Path(page).resolve() for page in sys.argv[2:]]
    if not pages:
        pages = [ROOT / "README.md", *sorted((ROOT / "docs/tutorials").glob("*.md"))]
    results = [result for page in pages if (result := run(page, mark)) is not None]
    print(f"{sum(results)} passed, {len(results) - sum(results)} failed")
    sys.exit(0 if results and all(results) else 1)


main()
