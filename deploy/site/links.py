"""What the pages have for readers of the repository, in the form that the site wants."""

import os
import re

from mkdocs.structure.files import File

ROOT = os.path.normpath(os.path.join(os.path.dirname(__file__), "../.."))


def on_files(files, config):
    """Adds the style sheet, which is no page of docs/."""
    style = os.path.join(os.path.dirname(__file__), "site.css")
    files.append(File.generated(config, "site.css", abs_src_path=style))
    return files


def on_page_markdown(markdown, page, **_):
    """Names files of the repository that are not in the site, and drops marks of blocks."""

    def name(match):
        text, target = match.groups()
        if re.match(r"https?:|#", target):
            return match[0]
        path = os.path.join("docs", os.path.dirname(page.file.src_uri), target.split("#")[0])
        path = os.path.normpath(path)
        if path.startswith("docs/") and path.endswith((".md", ".svg")):
            return match[0]
        if not os.path.exists(os.path.join(ROOT, path)):
            return match[0]  # strict mode names it
        return f"`{path}`" if path.endswith(text.strip("`")) else f"{text} (`{path}`)"

    markdown = re.sub(r"(?<!!)\[([^\]]*)\]\(([^)\s]+)\)", name, markdown)
    return re.sub(r"^(\s*```\w+) .*$", r"\1", markdown, flags=re.M)
