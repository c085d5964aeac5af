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
    """The same page under some lines, the first of which is its headline; self-contained as before, in about 1.4 MB:
    compressed, the browser unpacks it. One grey for both of Evidently's themes.
    """
    above = "".join(f"<li>{escape(line)}</li>" for line in lines[1:])
    headline = f'<h1 style="font-size: 20px; margin: 0 0 .6em">{escape(lines[0])}</h1>'
    style = "font: 15px/1.6 sans-serif; margin: 1.5em; max-width: 60em; color: #767676"
    head = f'<div style="{style}">{headline}<ul style="margin: 0; padding-left: 1.2em">{above}</ul></div>'
    whole = _UNUSED_FONT.sub("", html).replace("<body>", "<body>" + head, 1)
    small = gzip.compress(whole.encode("utf-8", "replace"), 9, mtime=0)
    return _SHELL.format(title=escape(title), packed=base64.b64encode(small).decode("ascii"))
