"""Non-maximum suppression as loop nests: a tournament of the scores of every batch and class, then all results.

Boxes are visited from the best score down. One is compared with all that have been chosen, a vector of them at a time;
their corners and areas lie in rows of a workspace for that.
"""

from __future__ import annotations

from ingot.compiler.ir.dims import Dim, ceil_divide, minimum, product, symbol
from ingot.compiler.ir.graph import Node, Value, describe
from ingot.compiler.ir.loops import Accumulate, Axis, Call, Const, Expr, For, Index, Let, Local, Stmt, When
from ingot.compiler.ir.types import TensorType
from ingot.compiler.lower.context import Context, kernel
from ingot.compiler.lower.nest import CHUNK, KernelBuilder, grain_for, index_value
from ingot.compiler.lower.pointwise import fill
from ingot.compiler.lower.tournament import Tournament
from ingot.compiler.ops.suppression import NonMaxSuppression
from ingot.runtime.dtypes import boolean, f32, i64

ROUND = 64  # visits between two looks at whether a class is done
SIDES = ("x0", "y0", "x1", "y1", "area")


def lower_suppression(context: Context, node: Node) -> bool:
    """Lower a NonMaxSuppression; False when `node` is none."""
    if not isinstance(node, NonMaxSuppression):
        return False
    _Suppression(context, node).lower()
    return True


def _call(fn: str, *args: Expr) -> Expr:
    return Call(fn, args, f32)


def _holds(fn: str, *args: Expr) -> Expr:
    return Call(fn, args, boolean)


def _any(first: Expr, *others: Expr) -> Expr:
    for other in others:
        first = _holds("or", first, other)
    return first


class _Suppression:
    """The kernels of one node. Grid variables ``_image`` and ``_class`` are batch and class."""

    def __init__(self, context: Context, node: NonMaxSuppression) -> None:
        self.context, self.node = context, node
        self.boxes, self.scores = context.view(node.boxes), context.view(node.scores)
        self.batch, self.classes, self.count = self.scores.shape
        self.limit = minimum(node.limit, self.count)
        origin = node.origin
        self.picked = context.temp(TensorType(i64, (self.batch, self.classes, self.limit)), origin=origin)
        self.counts = context.temp(TensorType(i64, (self.batch, self.classes)), origin=origin)
        shape = (self.batch, self.classes, len(SIDES), self.limit)
        self.corners = context.temp(TensorType(f32, shape), origin=origin)
        fill(context, self.corners, Const(0.0, f32), origin, "corners")
        self.row: tuple[Dim, Dim] = symbol("_image"), symbol("_class")
        self.build: KernelBuilder

    def lower(self) -> None:
        """Emit everything."""
        node, context = self.node, self.context
        self.game = Tournament.over(
            context, self.scores, 2, True, ("_image", "_class"), origin=node.origin, accept=self._accepts
        )
        self._first_bests()
        self._choose()
        self._collect()

    def _scalar(self, value: Value) -> Expr:
        view = self.context.view(value)
        return self.build.load(view, view.offset)

    def _accepts(self, score: Expr) -> Expr:
        """Whether a score takes part; NaN never does."""
        if self.node.score_threshold is None:
            return _holds("not", _holds("isnan", score))
        return _holds("gt", score, Local("_least", f32))

    def _least(self) -> list[Stmt]:
        threshold = self.node.score_threshold
        return [] if threshold is None else [Let("_least", self._scalar(threshold))]

    def _first_bests(self) -> None:
        """The best score of every block."""
        game, node = self.game, self.node
        self.build = kernel(self.context, node)
        body = (*self._least(), *game.refill(self.build, symbol("_k"), "a", None))
        grid = (
            Axis("_image", self.batch),
            Axis("_class", self.classes),
            Axis("_k", game.blocks, grain_for(game.block, CHUNK)),
        )
        self.context.run(self.build.launch(grid, body, origin=node.origin))

    def _choose(self) -> None:
        """The chosen boxes of every batch and class, and how many there are."""
        node, game = self.node, self.game
        self.build = build = kernel(self.context, node)
        status, number = self.context.fault(f"{describe(node)}: the iou_threshold must be between 0 and 1")
        threshold, chosen = Local("_threshold", f32), Local("_chosen", i64)
        most, going = Local("_most", i64), Local("_going", boolean)
        within = _holds("and", _holds("ge", threshold, Const(0.0, f32)), _holds("le", threshold, Const(1.0, f32)))
        stop = Accumulate(going.name, "and", Const(False, boolean))
        take = When(_holds("not", Local("_covered", boolean)), self._take(chosen, stop))
        visit = (
            *game.choose(build),
            When(
                _holds("lt", game.place, index_value(self.count)),
                (
                    *self._corners(game.place.name),
                    Let("_n", chosen),
                    *self._compare(threshold),
                    take,
                    *game.next(build),
                ),
                (stop,),
            ),
        )
        rounds = For(
            "_round", ceil_divide(self.count, ROUND), (When(going, (For("_visit", ROUND, (When(going, visit),)),)),)
        )
        body: tuple[Stmt, ...] = (
            *self._least(),
            Let(threshold.name, self._scalar(node.iou_threshold)),
            When(_holds("not", within), (build.store(status, 0, Const(number, i64)),)),
            Let(most.name, Call("min", (self._scalar(node.max_output), index_value(self.limit)), i64)),
            Let(chosen.name, Const(0, i64)),
            Let(going.name, _holds("gt", most, Const(0, i64))),
            rounds,
            build.store(self.counts, self.counts.at(self.row), chosen),
        )
        grid = (Axis("_image", self.batch), Axis("_class", self.classes, grain_for(self.count, CHUNK)))
        self.context.run(build.launch(grid, body, origin=node.origin))

    def _corners(self, place: str) -> list[Stmt]:
        """Define the candidate's sides and area, by the names of `SIDES` with an underscore."""
        build, boxes = self.build, self.boxes
        a, b, c, d = (build.load(boxes, boxes.at([symbol("_image"), symbol(place), i])) for i in range(4))
        statements: list[Stmt] = []

        def keep(name: str, value: Expr) -> Local:
            statements.append(Let(f"_{name}", value))
            return Local(f"_{name}", f32)

        if self.node.center:
            for side, middle, length in (("x", a, c), ("y", b, d)):
                half = keep(f"{side}_half", _call("mul", length, Const(0.5, f32)))
                for end, fn in enumerate(("sub", "add")):
                    keep(f"{side}{end}", _call(fn, middle, half))
        else:
            for side, first, last in (("x", b, d), ("y", a, c)):
                swapped = _holds("ge", first, last)
                keep(f"{side}0", _call("select", swapped, last, first))
                keep(f"{side}1", _call("select", swapped, first, last))
        x0, y0, x1, y1 = (Local(f"_{side}", f32) for side in SIDES[:4])
        keep("area", _call("mul", _call("sub", x1, x0), _call("sub", y1, y0)))
        return statements

    def _compare(self, threshold: Local) -> list[Stmt]:
        """Define ``_covered``: whether the candidate overlaps one of the ``_n`` chosen boxes by more than allowed."""
        zero = Const(0.0, f32)
        other = {side: self.build.load(self.corners, self._corner(i, symbol("_s"))) for i, side in enumerate(SIDES)}
        mine = {side: Local(f"_{side}", f32) for side in SIDES}
        apart: list[Expr] = []
        lengths: list[Expr] = []
        for axis in "xy":
            near, far = f"{axis}0", f"{axis}1"
            low = _call("select", _holds("lt", mine[near], other[near]), other[near], mine[near])
            high = _call("select", _holds("lt", other[far], mine[far]), other[far], mine[far])
            apart.append(_holds("le", high, low))
            lengths.append(_call("sub", high, low))
        shared = _call("mul", *lengths)
        union = _call("sub", _call("add", mine["area"], other["area"]), shared)
        empty = [_holds("le", area, zero) for area in (shared, mine["area"], other["area"], union)]
        above = _holds("gt", _call("div", shared, union), threshold)
        covered = _holds("and", _holds("not", _any(*apart, *empty)), above)
        return [
            Let("_covered", Const(False, boolean)),
            For("_s", symbol("_n"), (Accumulate("_covered", "or", covered),), "vector"),
        ]

    def _corner(self, side: int, number: Dim) -> Dim:
        return self.corners.at([*self.row, side, number])

    def _take(self, chosen: Local, stop: Stmt) -> tuple[Stmt, ...]:
        """Append the candidate to the chosen ones."""
        build, n = self.build, symbol("_n")
        return (
            *(build.store(self.corners, self._corner(i, n), Local(f"_{side}", f32)) for i, side in enumerate(SIDES)),
            build.store(self.picked, self.picked.at([*self.row, n]), self.game.place),
            Accumulate(chosen.name, "add", Const(1, i64)),
            When(_holds("ge", Index(n + 1), Local("_most", i64)), (stop,)),
        )

    def _collect(self) -> None:
        """All chosen boxes in one row, their number, and zeros to the end."""
        indices, total = (self.context.destination(v) for v in self.node.results())
        self.build = build = kernel(self.context, self.node)
        at, end, j = symbol("_at"), Local("_end", i64), symbol("_j")
        numbers = (Index(self.row[0]), Index(self.row[1]), build.load(self.picked, self.picked.at([*self.row, j])))
        one = (
            Let("_at", end),
            Let("_mine", build.load(self.counts, self.counts.at(self.row))),
            For(
                "_j",
                symbol("_mine"),
                tuple(build.store(indices, indices.at([at + j, i]), n) for i, n in enumerate(numbers)),
            ),
            Accumulate(end.name, "add", Local("_mine", i64)),
        )
        rest = product((self.batch, self.classes, self.node.limit)) - symbol("_rest")
        zeros = tuple(
            build.store(indices, indices.at([symbol("_rest") + symbol("_z"), i]), Const(0, i64)) for i in range(3)
        )
        body: tuple[Stmt, ...] = (
            Let(end.name, Const(0, i64)),
            For("_image", self.batch, (For("_class", self.classes, one),)),
            build.store(total, total.offset, end),
            Let("_rest", end),
            For("_z", rest, zeros),
        )
        self.context.run(build.launch((Axis("_point", 1),), body, origin=self.node.origin))
