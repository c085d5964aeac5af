"""params failures.poisoning: what a correction must not look like. What the numbers mean stands beside them in params.yaml."""

import re
from typing import Annotated, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator

Cap = Annotated[int, Field(ge=1)] | None  # rows; None: no cap


class Poisoning(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")
    door: bool
    user_window: Cap
    user_total: Cap
    source: str | None
    source_window: Cap
    source_total: Cap
    min_rows: Annotated[int, Field(ge=3)]
    near: Annotated[float, Field(ge=-1, le=1)]
    copies: Annotated[float, Field(gt=0, le=1)]
    odds: Annotated[float, Field(gt=1)]
    row_odds: Annotated[float, Field(gt=1)]
    share: Annotated[float, Field(ge=0, le=1)]
    expected: Annotated[float, Field(gt=0, lt=1)]
    level: Annotated[float, Field(gt=0, lt=0.5)]

    @model_validator(mode="after")
    def _source_is_a_field(self) -> Self:
        if self.source is not None and not re.fullmatch(r"metadata(\.[A-Za-z0-9_-]+)+", self.source):
            raise ValueError(f"source is {self.source!r}, must be metadata.<field>, or null where the logs tell no source")
        return self
