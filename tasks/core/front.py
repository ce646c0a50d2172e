"""The Pareto front: what can only be bettered in one respect by losing in another."""

from collections.abc import Mapping, Sequence


def front(figures: Mapping[str, Sequence[float]]) -> list[str]:
    """The names whose figures, of each of which less is better, no other's are at most in all and below in one."""

    def beaten(own: Sequence[float], other: Sequence[float]) -> bool:
        return all(b <= a for a, b in zip(own, other, strict=True)) and tuple(own) != tuple(other)

    return [name for name, own in figures.items() if not any(beaten(own, other) for other in figures.values())]
