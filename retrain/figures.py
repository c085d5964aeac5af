"""Numbers as a verdict holds and says them."""


def rounded(value: float) -> float:
    """Six digits: the same on every machine's last bit."""
    return float(f"{value:.6g}")


def percent(share: float) -> str:
    return f"{100 * share:.1f} %"


def points(share: float) -> str:
    return f"{100 * share:.1f} points"


def moved(difference: float) -> str:
    if difference == 0:
        return "no difference"
    return f"it {'gained' if difference > 0 else 'lost'} {points(abs(difference))}"
