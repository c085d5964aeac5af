"""An HTML page made small: Evidently's carries 3.7 MB of scripts whatever it shows, a loop writes one a window for years."""

import base64
import gzip
import re
from collections.abc import Sequence
from html import escape

# its icons are drawn as SVG; nothing on the page uses the font that comes along (126 kB)
_UNUSED_FONT = re.compile(r"@font-face\s*\{[^}]*'Material Icons'[^}]*\}")
_SHELL = """<!DOCTYPE html>
<html lang="en"><head><meta charset="utf-8"><title>{title}</title></head><body>
<noscript>This report is drawn by its own scripts: allow JavaScript for it.</noscript>
<script type="text/plain" id="packed">{packed}</script>
<script>
(async () => {{
  if (!window.DecompressionStream) {{ document.body.append("This report needs a browser of 2023 or newer."); return; }}
  const bytes = Uint8Array.from(atob(document.getElementById("packed").textContent), (c) => c.charCodeAt(0));
  const page = await new Response(new Blob([bytes]).stream().pipeThrough(new DecompressionStream("gzip"))).text();
  document.open(); document.write(page); document.close();
}})();
</script></body></html>
"""


def packed(html: str, title: str, lines: Sequence[str]) -> str:
    """The same page under some lines, self-contained as before, in about 1.4 MB: compressed; the browser unpacks it."""
    above = "".join(f"<li>{escape(line)}</li>" for line in lines)
    head = f'<ul style="font: 15px/1.5 sans-serif; margin: 1.5em; color: gray; padding-left: 1.2em">{above}</ul>'
    whole = _UNUSED_FONT.sub("", html).replace("<body>", "<body>" + head, 1)
    small = gzip.compress(whole.encode("utf-8", "replace"), 9, mtime=0)
    return _SHELL.format(title=escape(title), packed=base64.b64encode(small).decode("ascii"))
