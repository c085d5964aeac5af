"""Great Expectations' Data Docs as pages that need no network.

As they come, styles, icons and the very rows of their index are fetched from elsewhere; here these stand in each page.
"""

import re
from importlib import resources
from pathlib import Path

ELSEWHERE = re.compile(
    r'<link[^>]+href="(?:https?:|[^">]*favicon)[^>]*>|<script[^>]+src="https?:[^>]*>\s*</script>|<footer>.*?</footer>',
    re.DOTALL,
)
LOGO = re.compile(r'<img[^>]+src="https?:[^>]*>')


def self_contained(folder: Path) -> None:
    """Rewrite every page under a folder; one that was rewritten stays as it is."""
    own = resources.files("retrain").joinpath("templates/datadocs.html").read_text("utf-8")
    for page in folder.rglob("*.html"):
        text = page.read_text("utf-8")
        if ELSEWHERE.search(text):
            kept = LOGO.sub("Data Docs", ELSEWHERE.sub("", text))
            page.write_text(kept.replace("</head>", own + "</head>", 1), "utf-8")
