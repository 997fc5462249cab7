"""Plans that are made together: layers that are alike ask once for what is decided for them."""

from __future__ import annotations

from lowerconv.conv.executable import Options
from lowerconv.conv.plan import ConvPlan
from lowerconv.conv.problem import ConvProblem, Op
from lowerconv.copying import not_copied


@not_copied("make the plans anew")
class LikePlans:
    """Makes plans; decides once for all that differ in the constants of their activation alone.

    It is to be used only while the threads, and what tuning remembers, stay the same.
    """

    def __init__(self) -> None:
        self._known: dict[tuple[ConvProblem, Op, Options], ConvPlan] = {}

    def plan(self, problem: ConvProblem, op: Op, options: Options) -> ConvPlan:
        """Return a plan that nobody else has.

        Parameters
        ----------
        problem : ConvProblem
        op : {"forward", "input_grad", "weight_grad"}
        options : Options

        Returns
        -------
        ConvPlan

        Raises
        ------
        ValueError, MemoryError
            As of `ConvPlan`.
        """
        activation = options.activation
        key = problem, op, options._replace(activation=activation and activation.kind)
        known = self._known.get(key)
        if known is not None:
            return known.with_activation(activation)
        made = self._known[key] = ConvPlan(problem, op, options)
        return made
