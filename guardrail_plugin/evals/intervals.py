"""Exact and near-exact 95 % intervals of a proportion. Standard library only."""

from __future__ import annotations

import math

_Z = 1.959963984540054  # 97.5 % point of the normal distribution
_STEPS = 80  # bisection down to double precision


def wilson(hits: int, n: int) -> tuple[float, float]:
    """Return the two-sided 95 % Wilson score interval of ``hits`` out of ``n``.

    Unlike the bootstrap's it has a width at 0 and at 100 %.

    Source: Wilson 1927; recommended for reporting by Brown, Cai and DasGupta 2001.
    """
    _check(hits, n)
    share = hits / n
    centre = share + _Z**2 / (2 * n)
    spread = _Z * math.sqrt(share * (1 - share) / n + _Z**2 / (4 * n**2))
    scale = 1 + _Z**2 / n
    low = 0.0 if hits == 0 else (centre - spread) / scale
    high = 1.0 if hits == n else (centre + spread) / scale
    return low, high


def upper_bound(hits: int, n: int, *, confidence: float = 0.95) -> float:
    """Return the one-sided Clopper-Pearson upper bound: the largest share under which so few hits are not unlikely.

    With no hit in ``n`` it is ``1 - (1 - confidence) ** (1 / n)``, about ``3 / n`` ("rule of three").

    Source: Clopper and Pearson 1934; exact, so the true share exceeds the bound in at most 5 % of samples.
    """
    _check(hits, n)
    if hits == n:
        return 1.0
    low, high = hits / n, 1.0
    for _ in range(_STEPS):
        middle = (low + high) / 2
        if _at_most(hits, n, middle) > 1 - confidence:
            low = middle
        else:
            high = middle
    return high


def _at_most(hits: int, n: int, share: float) -> float:
    """Return P(X <= hits) for X ~ Binomial(n, share), 0 < share < 1."""
    if share >= 1.0:
        return 0.0
    odds, stay = math.log(share) - math.log1p(-share), n * math.log1p(-share)
    log_terms = [stay + k * odds + _log_choose(n, k) for k in range(hits + 1)]
    top = max(log_terms)
    return math.exp(top) * math.fsum(math.exp(term - top) for term in log_terms)


def _log_choose(n: int, k: int) -> float:
    return math.lgamma(n + 1) - math.lgamma(k + 1) - math.lgamma(n - k + 1)


def _check(hits: int, n: int) -> None:
    if not 0 <= hits <= n or n < 1:
        raise ValueError(f"{hits} hits out of {n} is no proportion")
