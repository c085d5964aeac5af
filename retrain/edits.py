"""params.yaml written by a program: its comments, quotes and layout stay as the person left them."""

from pathlib import Path
from typing import Any

import yaml

from retrain.overrides import apply
from retrain.params import read, validated


def set_values(path: Path, overrides: list[str] | tuple[str, ...]) -> None:
    """Write `key.path=value` overrides into a params.yaml, comments kept; the result is validated first."""
    from ruamel.yaml import YAML

    validated(apply(read(path), overrides), str(path))
    edit(path, lambda data: apply(data, overrides), YAML())


def add_label(path: Path, adapter: str, label: str) -> None:
    """Append a label to adapters.<adapter>.labels, comments kept."""
    from ruamel.yaml import YAML

    edit(path, lambda data: data["adapters"][adapter]["labels"].append(label), YAML())
    validated(read(path), str(path))


def approve(path: Path, adapter: str, recipe: str) -> None:
    """Set approved.<adapter>, comments kept."""
    from ruamel.yaml import YAML

    def change(data: Any) -> None:
        data["approved"][adapter] = recipe

    edit(path, change, YAML())
    validated(read(path), str(path))


def edit(path: Path, change: Any, yaml_: Any) -> None:
    from io import StringIO

    from ruamel.yaml.comments import CommentedMap

    from retrain.records import write_text

    yaml_.preserve_quotes = True
    yaml_.width = 200
    yaml_.indent(mapping=2, sequence=4, offset=2)
    yaml_.representer.add_representer(type(None), lambda r, _: r.represent_scalar("tag:yaml.org,2002:null", ""))
    yaml_.representer.add_representer(str, _represent_text)
    data = yaml_.load(path.read_text("utf-8"))
    change(data)
    _in_a_line(data, CommentedMap)
    out = StringIO()
    yaml_.dump(data, out)
    write_text(path, out.getvalue())


def _represent_text(representer: Any, text: str) -> Any:
    """ruamel writes YAML 1.2, PyYAML reads 1.1: a label `no` or `12:30` would come back as another type."""
    try:
        plain = yaml.safe_load(text) == text
    except yaml.YAMLError:
        plain = False
    style = None if plain or "\n" in text else '"'
    return representer.represent_scalar("tag:yaml.org,2002:str", text, style=style)


def _in_a_line(data: Any, kept: Any) -> None:
    """Mappings that were put into a list are written as {kind: cooldown, hours: 48}, as the shipped file does."""
    for key, item in data.items() if isinstance(data, dict) else enumerate(data) if isinstance(data, list) else ():
        if isinstance(data, list) and isinstance(item, dict) and not isinstance(item, kept):
            data[key] = kept(item)
            data[key].fa.set_flow_style()
        _in_a_line(item, kept)
