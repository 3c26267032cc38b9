#!/usr/bin/python3
"""Compares the documentation with the code, and with its own rules. Needs no build.

A fault is a line `FILE: what is wrong`; the exit status is 1 if there is any.
"""

import pathlib
import re
import subprocess
import sys

ROOT = pathlib.Path(__file__).resolve().parents[2]
LONGEST = 99
# Words that need a translation, by the page that replaced them.
DIALECT = {
    "folder": "directory", "for want of memory": "OOM kill", "owner of a node": "cluster operator",
    "node's owner": "cluster operator, or the node", "is told": "say who does what to whom",
    "by itself": "leave it out", "is no container": "is not a container",
}
faults = []


def read(path):
    return (ROOT / path).read_text()


def fault(path, text):
    faults.append(f"{path}: {text}")


def pages():
    listed = subprocess.run(
        ["git", "ls-files", "--cached", "--others", "--exclude-standard", "*.md"],
        cwd=ROOT, capture_output=True, text=True, check=True,
    ).stdout.split()
    return [path for path in listed if (ROOT / path).exists()]


def prose(text):
    """The text without fenced blocks, each of their lines left empty."""
    lines, fence = [], False
    for line in text.splitlines():
        if line.lstrip().startswith("```"):
            fence = not fence
            line = ""
        lines.append("" if fence else line)
    return "\n".join(lines)


def anchors(text):
    found = set()
    for heading in re.findall(r"^#+ (.*)$", prose(text), flags=re.M):
        slug = re.sub(r"[^\w\- ]", "", heading.lower()).strip().replace(" ", "-")
        found.add(slug)
    return found


def check_links():
    for path in pages():
        text = prose(read(path))
        text = re.sub(r"`[^`\n]*`", "", text)
        for target in re.findall(r"\]\(([^)\s]+)\)", text):
            if re.match(r"https?:", target):
                continue
            file, _, fragment = target.partition("#")
            there = (ROOT / path).parent / file if file else ROOT / path
            if not there.exists():
                fault(path, f"links to {target}, which is not there")
            elif fragment and there.suffix == ".md" and fragment not in anchors(there.read_text()):
                fault(path, f"links to {target}, which has no such heading")


def check_references():
    """Pages that code, scripts and manifests name; runtime-v2.md is one of containerd's."""
    listed = subprocess.run(
        ["git", "grep", "-IhoE", "--untracked", r"(containerd `)?docs/[A-Za-z0-9/._-]+\.(md|svg)",
         "--", ":!*.md", ":!deploy/site"],
        cwd=ROOT, capture_output=True, text=True, check=True,
    ).stdout.split("\n")
    for path in set(listed):
        if path not in ("", "docs/runtime-v2.md") and not path.startswith("containerd") and not (ROOT / path).exists():
            fault("code", f"names {path}, which is not there: git grep {path}")


def check_form():
    generated = {"docs/reference/cli.md"}
    for path in pages():
        if not path.startswith(("docs/", "README", ".github/")) or path in generated:
            continue
        for number, line in enumerate(read(path).splitlines(), 1):
            # What cannot be broken: a row of a table, a link, a word.
            alone = re.match(r"#|\s*(\||\[[^\]]+\]:|- \[.*\]\(\S+\)$)", line) or " " not in line.strip("-* ")
            if len(line) > LONGEST and not alone:
                fault(f"{path}:{number}", f"has {len(line)} characters, {LONGEST} are allowed")
        if path.startswith("docs/decisions/"):
            continue
        text = re.sub(r"`[^`]*`", "", prose(read(path)))
        for word, instead in DIALECT.items():
            for match in re.finditer(rf"\b{re.escape(word)}s?\b", text, flags=re.I):
                number = text.count("\n", 0, match.start()) + 1
                fault(f"{path}:{number}", f"says {match[0]!r}; write: {instead}")


def check_marks():
    marks = {"sh runnable", "sh cluster", "sh by=ci", "sh by=kubernetes", "sh by=reader"}
    for path in ["README.md", *(f"docs/tutorials/{p.name}" for p in (ROOT / "docs/tutorials").glob("*.md"))]:
        for info in re.findall(r"^```(sh.*)$", read(path), flags=re.M):
            if info not in marks:
                fault(path, f"has a block {info!r}: mark it as one of {', '.join(sorted(marks))}")


def number(expression):
    value = 1
    left, _, shift = expression.partition("<<")
    value = float(left) if "." in left else int(left)
    return value << int(shift) if shift else value


def defaults(path):
    """The fields of the struct that a file has a Default for, by their names in TOML."""
    body = re.search(r"fn default\(\) -> Self \{\s*Self \{(.*?)\n        \}", read(path), flags=re.S)[1]
    return {
        name.replace("_", "-"): value
        for name, value in re.findall(r"^\s*(\w+): (.*),$", body, flags=re.M)
    }


def table(path):
    """What each name in the first column of a page's tables has in the second."""
    found = {}
    for row in re.findall(r"^\|(.*)\|$", read(path), flags=re.M):
        cells = [cell.strip() for cell in re.split(r"(?<!\\)\|", row)]
        for name in re.findall(r"`([^`]+)`", cells[0]):
            found.setdefault(name, cells[1])
    return found


def check_options():
    page = "docs/reference/options.md"
    documented = table(page)
    node = defaults("crates/wasm/src/options/node.rs")
    cache = defaults("crates/wasm/src/cache/limits.rs")
    node.pop("cache")
    traces = re.search(r"struct TraceOptions \{(.*?)\n\}", read("crates/trace/src/settings.rs"), flags=re.S)[1]
    names = {**node, **{f"cache.{name}": value for name, value in cache.items()}}
    names |= {f"traces.{name}": None for name in re.findall(r"pub (\w+):", traces)}
    for name, value in names.items():
        if name not in documented:
            fault(page, f"does not have the option {name}")
        elif value is not None and re.match(r"[\d. <]+$", value):
            if str(number(value)) != documented[name]:
                fault(page, f"says that {name} is {documented[name]} by default; it is {number(value)}")
        elif value in ("true", "false") and documented[name].strip("`") != value:
            fault(page, f"says that {name} is {documented[name]} by default; it is {value}")
    for name in re.findall(r"^\| `([a-z0-9.-]+)`", read(page), flags=re.M):
        if name not in names and name not in ("command", "http", "metered", "debug"):
            fault(page, f"has the option {name}, which is not in the code")
    concurrency = number(node["http-concurrency"])
    for path in pages():
        for text in re.findall(r"http-concurrency[^.|\n]*?(\d+) by default", read(path)):
            if int(text) != concurrency:
                fault(path, f"says that http-concurrency is {text} by default; it is {concurrency}")
    full = re.search(r"in_flight\) > (\d+)", read("docs/guides/monitoring.md"))[1]
    if int(full) != concurrency * 9 // 10:
        fault("docs/guides/monitoring.md", f"warns at {full} requests, not at nine tenths of {concurrency}")


def check_annotations():
    page = "docs/reference/annotations.md"
    known = re.search(r"KNOWN: &\[&str\] = &\[(.*?)\];", read("crates/wasm/src/options/annotations.rs"), flags=re.S)
    known = set(re.findall(r'"([^"]+)"', known[1]))
    documented = set(table(page))
    for name in known - documented:
        fault(page, f"does not have the annotation {name}")
    for name in documented - known:
        fault(page, f"has the annotation {name}, which is not in the code")


def metric_names():
    source = read("crates/node/src/metrics/exposition.rs")
    source = source[: source.index("#[cfg(test)]")]
    names = set()
    families = re.findall(
        r'(counter|gauge)\(\s*"(\w+)",\s*"[^"]*",\s*(Some\(Unit::(\w+)\)|None)', source)
    families += [
        (kind.lower(), name, unit, unit_name)
        for name, unit, unit_name, kind in re.findall(
            r'Family \{\s*name: "(\w+)",\s*help: "[^"]*",\s*unit: (Some\(Unit::(\w+)\)|None),'
            r"\s*kind: MetricType::(\w+)", source)
    ]
    for kind, name, _, unit in families:
        name = f"lighter_{name}" + (f"_{unit.lower()}" if unit else "")
        names.add(name + ("_total" if kind == "counter" else ""))
    return names


def check_metrics():
    page = "docs/reference/metrics.md"
    names = metric_names()
    documented = {name for name in table(page) if name.startswith("lighter_")}
    for name in names - documented:
        fault(page, f"does not have the metric {name}")
    for name in documented - names:
        fault(page, f"has the metric {name}, which is not in the code")
    for path in [*pages(), "deploy/grafana/lighter.json"]:
        for name in set(re.findall(r"\blighter_[a-z_]+_(?:total|bytes|seconds|flight)\b", read(path))):
            if name not in names:
                fault(path, f"names the metric {name}, which is not in the code")


def check_exits():
    page = "docs/reference/exit-codes.md"
    source = read("crates/core/src/exit.rs")
    for name in ("TRAP_STATUS", "HOST_FAILURE_STATUS"):
        status = re.search(rf"{name}: u8 = (\d+);", source)[1]
        if f"| {status} |" not in read(page):
            fault(page, f"does not have {status}, which is {name}")
    counters = read("crates/core/src/counters.rs")
    kinds = re.search(r"impl TrapKind \{.*?fn name.*?\{(.*?)\n    \}", counters, flags=re.S)[1]
    for kind in re.findall(r'"(\w+)"', kinds):
        if f"`{kind}`" not in read("docs/reference/metrics.md"):
            fault("docs/reference/metrics.md", f"does not have the kind of trap {kind}")
    for name in re.findall(r"^    (\w+),$", re.search(r"enum ErrorClass \{(.*?)\n\}", read("crates/core/src/failure.rs"), flags=re.S)[1], flags=re.M):
        if f"| {name} |" not in read(page):
            fault(page, f"does not have the class {name}")


def check_facts():
    """What several files say, and has to be the same."""
    seconds = {}
    files = [*pages(), *(str(p.relative_to(ROOT)) for where in ("deploy", "test/kubernetes")
                         for p in (ROOT / where).rglob("*") if p.suffix in (".yaml", ".rs"))]
    for path in files:
        for value in re.findall(r'preStop"?: \{ ?"?sleep"?: \{ ?"?seconds"?: (\d+)', read(path)):
            seconds.setdefault(value, []).append(path)
    if len(seconds) != 1:
        fault("preStop", f"has different seconds: {seconds}")
    channel = re.search(r'channel = "([^"]+)"', read("rust-toolchain.toml"))[1]
    if f"RUSTUP_TOOLCHAIN := {channel}\n" not in read("Makefile"):
        fault("rust-toolchain.toml", f"has {channel}, and the Makefile another release")
    decisions = read("docs/decisions/README.md")
    for path in sorted((ROOT / "docs/decisions").glob("0*.md")):
        title = path.read_text().splitlines()[0].removeprefix("# ")
        if f"[{title}]({path.name})" not in decisions:
            fault("docs/decisions/README.md", f"does not have {path.name} by its title")
        if f"decisions/{path.name}\n" not in read("deploy/site/mkdocs.yml"):
            fault("deploy/site/mkdocs.yml", f"does not have {path.name}")


for check in (check_links, check_references, check_form, check_marks, check_options, check_annotations, check_metrics,
              check_exits, check_facts):
    check()
for each in faults:
    print(each)
print(f"docs: {len(pages())} pages, {len(faults)} faults")
sys.exit(1 if faults else 0)
