"""The section `gates` of params.yaml: the rules that a verdict follows."""

from typing import Annotated, Literal

from pydantic import BeforeValidator, Field

from retrain.sections import Endpoint, Positive, Section, Share

Suite = Literal["golden", "audit", "repair", "retained"]


class Preference(Endpoint):
    """An LLM that says which of two generated answers is better.

    It is asked about so many answers of people too (`calibration`), beside wrong ones, and must prefer theirs so often
    (`agreement`) by the low end of the interval.
    """

    seconds: Annotated[float, Field(gt=0)]
    calibration: Annotated[int, Field(ge=30, le=1000)]
    agreement: Annotated[float, Field(gt=0.5, lt=1)]


def _not_alone(metric: object) -> object:
    if metric == "judge":
        raise ValueError(
            "a judge alone never passes a gate: name right, fields, token_f1 or chrf, which the candidate must be better by, "
            "and give the judge as gates.judge, which must prefer it too"
        )
    return metric


Metric = Annotated[Literal["right", "fields", "token_f1", "chrf"], BeforeValidator(_not_alone)]


class Safety(Section):
    """The largest share of answers, over all suites, with each fault (`scoring.faults`)."""

    invalid: Annotated[float, Field(ge=0, le=1)]
    cut: Annotated[float, Field(ge=0, le=1)]
    refused: Annotated[float, Field(ge=0, le=1)]
    leaking: Annotated[float, Field(ge=0, le=1)]


class Budget(Section):
    """length: mean characters of an answer, as a multiple of what people expected; megabytes: of the adapter's files."""

    length: Annotated[float, Field(gt=0)]
    megabytes: Annotated[float, Field(gt=0)]


class Canned(Section):
    """prompts: how many the engine of `retrain serve` is asked; equal: the least share of them with the answer that was judged,
    where a float may round otherwise."""

    prompts: Positive
    equal: Annotated[float, Field(ge=0.5, le=1)]


class Gates(Section):
    metric: Metric
    judge: Preference | None = None
    level: Annotated[float, Field(gt=0, lt=0.5)]
    margin: Annotated[float, Field(gt=0, lt=1)]
    min_effect: Share
    min_rows: Positive
    not_measured_max: Share
    floor: dict[Suite, Share]
    parse_floor: Share | None
    repair: Share
    repair_min_rows: Positive
    safety: Safety
    serves: Canned
    budget: Budget
