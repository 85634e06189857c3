# SPDX-License-Identifier: Apache-2.0
"""The recorder, on a small class of its own: what is reported, and that results do not change."""

import ast

from record import Instrument, Recorder, Site, _parse_site

SOURCE = '''
class Toy:
    def forward(self, x, offset):
        """doc"""
        a = b = self.double(x)
        a += offset
        a, c = self.double(a), 7
        rotate(a[1:])
        for i in range(2):
            c += i
        if x:
            return a, self.double(b)
        return None

    def double(self, x):
        self.state = list(x)
        return [*x, *x]
'''


def rotate(values):
    values = values[::-1]


def site(value, tap="^t", function="Toy.forward", call="-", transform="-"):
    row = {"function": function, "call": call, "value": value, "tap": tap, "transform": transform}
    return _parse_site(row)


def record(*sites: Site, x=(1,), offset=(2,)):
    """(recorded values in order, result) of Toy().forward."""
    seen = []

    def keep(name, value):
        seen.append((name, list(value) if isinstance(value, list) else value))

    recorder = Recorder(list(sites), lambda name: True, keep, {"second": second})
    tree = ast.fix_missing_locations(Instrument(list(sites)).visit(ast.parse(SOURCE)))
    space = {"__recorder__": recorder, "rotate": rotate}
    exec(compile(tree, "toy", "exec"), space)
    toy = space["Toy"]()
    recorder.bind([("", toy)])
    return seen, toy.forward(list(x), list(offset))


def second(value, frame):
    return (value[1], frame.latest["offset"])


def values(value, **options):
    return [recorded for _, recorded in record(site(value, **options))[0]]


def test_the_result_is_that_of_the_plain_code():
    space = {"rotate": rotate}
    exec(SOURCE, space)

    assert record(site("a#0"))[1] == space["Toy"]().forward([1], [2])


def test_chained_targets_count_apart():
    assert values("a#0") == values("b#0") == [[1, 1]]


def test_tuple_targets_are_reported():
    assert values("c#0") == [7]


def test_a_loop_variable_names_the_tap():
    seen, _ = record(site("i#*", tap="^expert.{i}"))

    assert [name for name, _ in seen] == ["expert.0", "expert.1"]


def test_the_value_before_an_augmented_assignment():
    assert values("c before") == [7, 7]


def test_the_value_after_an_in_place_call():
    assert values("a after double") == [[1, 1]]
    assert values("a after rotate") == [[1, 1, 2, 1, 1, 2]]


def test_final_is_the_last_value_and_attributes_are_read_at_the_end():
    assert values("c final") == [8]
    assert values("self.state final", function="Toy.double")[0] == [1]


def test_an_expression_and_an_item_of_the_return_value():
    doubled = [1, 1, 2, 1, 1, 2]  # b is a, which has grown in place

    assert values("self.double(b)") == [doubled]
    assert values("return[1]") == [doubled]


def test_calls_by_the_same_caller_are_numbered():
    assert values("return", function="Toy.double", call="0") == [[1, 1]]
    assert len(values("return", function="Toy.double")) == 3


def test_a_transform_sees_the_frame():
    assert values("b#0", transform="second") == [(1, [2])]
