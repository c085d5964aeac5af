"""Every error that a person can meet, and the exit code of each.

    RetrainError                    1  a fault: something broke
    ├── ParamsError (ValueError)    2  params.yaml or an argument is wrong
    ├── DataError (ValueError)      2  a file or a row is not what it must be
    ├── NotEnoughData               4  nothing to do yet: too few rows to tell
    ├── NothingToDo                 4  the state asked for is already there
    ├── BusyError                   5  another job holds the lock; try again later
    ├── WaitingError                5  a person has not answered yet, or promotions are paused; try again later
    ├── StaleError                  6  somebody else moved first: what this was based on no longer holds
    ├── RejectedError               3  the gate, or a person, said no
    ├── EndpointError               1  a model behind an endpoint did not answer, or sent no answer
    │   └── EndpointRefused         1  ... and would not, however often it is asked: wrong key, path or model
    ├── RequestRefused              2  what a client of `retrain serve` sent cannot be answered (status, code, param)
    └── IntegrityError              1  bytes, digests, ledger or registry disagree

A rejection is a value wherever code can hand it on (`Verdict`, `TriggerDecision`); `RejectedError` is only for a verb
that was asked to do what a verdict forbids. Each message says what, where, what was found, and the fix.
"""


class RetrainError(Exception):
    """Base of every error of this project; `exit_code` is what the command line returns."""

    exit_code = 1


class ParamsError(RetrainError, ValueError):
    exit_code = 2


class DataError(RetrainError, ValueError):
    exit_code = 2


class RejectedError(RetrainError):
    exit_code = 3


class NotEnoughData(RetrainError):
    exit_code = 4


class NothingToDo(RetrainError):
    exit_code = 4


class BusyError(RetrainError):
    exit_code = 5


class WaitingError(RetrainError):
    exit_code = 5


class StaleError(RetrainError):
    exit_code = 6


class EndpointError(RetrainError):
    pass


class EndpointRefused(EndpointError):
    pass


class RequestRefused(RetrainError):
    """status is HTTP's; `code` and `param` are told to the client, as OpenAI does; `retry_after` in seconds."""

    exit_code = 2

    def __init__(
        self,
        message: str,
        *,
        status: int = 400,
        code: str | None = None,
        param: str | None = None,
        retry_after: int | None = None,
    ) -> None:
        super().__init__(message)
        self.status, self.code, self.param, self.retry_after = status, code, param, retry_after


class IntegrityError(RetrainError):
    pass
