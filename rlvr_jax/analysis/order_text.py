"""Which points stand above which, in a few lines however many pairs there are."""

from statistics import fmean

from rlvr_jax.analysis.seeds import Order, resolved_orders

_MOST_LISTED = 6  # pairs; of more, the means and what is not told apart say the same in less


def order_lines(what: str, values_by_point: dict[str, list[float]]) -> list[str]:
    """A sentence, and the pairs that differ; or the means in their order, and the pairs that do not differ."""
    orders, sentence = resolved_orders(values_by_point)
    said = f"Order by {what}: {sentence}"
    if len(orders) <= _MOST_LISTED:
        return [f"{said}.", *(f"- {_order_text(order)}" for order in orders)]
    means = {name: fmean(values) for name, values in values_by_point.items() if len(values) > 1}
    names = sorted(means, key=means.get, reverse=True)
    differ = {frozenset((order.better, order.worse)) for order in orders}
    alike = []
    for i, name in enumerate(names):
        near = [other for other in names[i + 1 :] if frozenset((name, other)) not in differ]
        alike += [f"{name} from {', '.join(near)}"] if near else []
    halves = [order.difference - order.low for order in orders]
    half = f"{min(halves):.3f}" if f"{min(halves):.3f}" == f"{max(halves):.3f}" else _ends(halves)
    return [
        f"{said}. Differences are ± {half}.",
        f"- Means: {', '.join(f'{name} {means[name]:.3f}' for name in names)}.",
        f"- Not told apart: {'; '.join(alike) or 'none'}.",
    ]


def _ends(values: list[float]) -> str:
    return f"{min(values):.3f} to {max(values):.3f}"


def _order_text(order: Order) -> str:
    return f"{order.better} above {order.worse} by {order.difference:.3f} [{order.low:.3f}, {order.high:.3f}]"
