"""What a training cost: seconds of the device, tokens, peak memory, and energy where the driver tells.  [torch]

It goes into a file beside the training log, from there to MLflow and the ledger, and never into run.json: the same commit must
give the same bytes, and no two runs cost the same.
"""

import resource
import time
from pathlib import Path
from typing import Any

from retrain.records import read_json, write_json

RAPL = Path("/sys/class/powercap/intel-rapl:0")  # the processor's own counter, in microjoules; often for root alone


class Meter:
    """Runs from its making to `stop`."""

    def __init__(self, device: str) -> None:
        self.device, self.began, self.joules = device, time.monotonic(), _joules(device)
        if device == "cuda":
            import torch

            torch.cuda.reset_peak_memory_stats()

    def stop(self, path: Path, *, earlier: float = 0.0, **counts: int) -> None:
        """Write what was spent to path; earlier: seconds of processes that this one went on from; counts: tokens and the like.

        Nobody counted the energy of those.
        """
        now = _joules(self.device)
        spent = None if now is None or self.joules is None or now < self.joules or earlier else round(now - self.joules, 1)
        seconds = round(earlier + time.monotonic() - self.began, 1)
        told = {"device": self.device, "device_seconds": seconds, "peak_bytes": _peak(self.device), "joules": spent, **counts}
        path.parent.mkdir(parents=True, exist_ok=True)
        write_json(path, {"schema": 1, **told})


def read(path: Path) -> dict[str, Any]:
    """What a training cost, its numbers alone; {} where none ran (DVC had its outcome)."""
    if not path.exists():
        return {}
    return {name: value for name, value in read_json(path).items() if isinstance(value, int | float) and name != "schema"}


def _peak(device: str) -> int:
    if device == "cuda":
        import torch

        return int(torch.cuda.max_memory_allocated())
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def _joules(device: str) -> float | None:
    if device == "cuda":
        try:
            import pynvml

            pynvml.nvmlInit()
            return float(pynvml.nvmlDeviceGetTotalEnergyConsumption(pynvml.nvmlDeviceGetHandleByIndex(0))) / 1e3
        except Exception:  # no module, no permission, a card that does not count: the driver does not tell
            return None
    try:
        return int((RAPL / "energy_uj").read_text()) / 1e6
    except (OSError, ValueError):
        return None
