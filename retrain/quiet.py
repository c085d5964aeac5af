"""The libraries without their banners, bars and harmless warnings, and without what they load for nothing.  [torch]"""

import logging
import os
import warnings
from functools import cache
from unittest import mock


def libraries() -> None:
    """Silence the progress bars and harmless warnings of the libraries, and load bitsandbytes without torch's compiler; call
    before importing them."""
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")
    os.environ.setdefault("BITSANDBYTES_NOWELCOME", "1")
    logging.getLogger("bitsandbytes").setLevel(logging.ERROR)
    warnings.filterwarnings("ignore", module="bitsandbytes")
    warnings.filterwarnings("ignore", message=".*is_gradient_checkpointing. is deprecated")  # peft asks, transformers complains
    warnings.filterwarnings("ignore", message="Unable to fetch remote file")  # peft looks for the base's card, offline
    from transformers.utils import logging as transformers_logging

    transformers_logging.set_verbosity_error()
    transformers_logging.disable_progress_bar()
    _without_compiler()


@cache
def _without_compiler() -> None:
    """bitsandbytes has torch compile four functions that a CPU or a GPU has kernels for, which takes 2 s to load in each
    process; where that fails it takes them as they are, and so it does here."""
    import torch

    with mock.patch.object(torch, "compile", side_effect=RuntimeError("not needed")):
        import bitsandbytes  # noqa: F401 - peft and transformers find it loaded
