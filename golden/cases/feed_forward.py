# SPDX-License-Identifier: Apache-2.0
"""Cases of routing and experts."""

import numpy as np

import twins
from book import numbers, undecided
from roundings import inputs


def routing(book):
    logits = numbers("router", 4, 6, scale=2)
    logits[2] = [-70, -40, -17, 21, 90, 200]  # exp(-88) is no normal number of float32 any more
    logits[3] = [-72, -66, -64, -60, -56, -50]
    bias = np.array([0.5, -0.25, 3.0, 0.125, -12.0, 0.0])
    table = np.array([[5, 0], [1, 4], [0, 1], [3, 5]], np.int32)
    for name, what, rows, use_table in [("gate_scored", "the bias moves the choice and not the weights", [0, 1], False),
                                        ("gate_hash", "the table chooses, the scores weigh", [0, 1], True),
                                        ("gate_extreme", "logits from -72 to 200", [2, 3], False)]:
        ids = [3, 1] if use_table else [0, 0]
        made = [twins.route(inputs(logits[r]), 2, 1.5, bias=None if use_table else inputs(bias),
                            table=table[i] if use_table else None) for r, i in zip(rows, ids)]
        given = {"x": logits[rows], "weight": np.eye(6), "ids": np.array(ids, np.int32)}
        given |= {"tid2eid": table} if use_table else {"bias": bias}
        book.add(name, "gate", what + "; the router's weight is the identity: x are its logits", given,
                 {"scores": [m[0] for m in made], "weights": [m[2] for m in made]}, "§2.1",
                 exact={"indices": np.array([m[1] for m in made], np.int32)}, undecided=undecided(m[3] for m in made),
                 active=2, route_scale=1.5)


def experts(book):
    gate = np.array([[-30.0, -12.0, -1.0, 0.25, 9.5, 40.0], [2.0, -9.0, 0.0, 11.0, -0.5, 7.0]])
    up = np.array([[25.0, 3.0, -40.0, 1.0, -11.0, 0.5], [-2.0, 30.0, 5.0, -6.0, 10.5, -0.25]])
    weight = np.array([[0.75], [1.5]])
    for limit, name in [(10.0, "swiglu_limit"), (0.0, "swiglu")]:
        hidden = [twins.swiglu(g, u, w[0], limit) for g, u, w in zip(inputs(gate), inputs(up), inputs(weight))]
        book.add(name, "swiglu", f"limit {limit:g}: gate from above, up on both sides", {"gate": gate, "up": up, "weight": weight},
                 {"hidden": hidden}, "§4.2.3", port_only=["M51", "M52"] if limit else [], limit=limit)
    d, f, count = 5, 4, 3
    x, router, bias = numbers("moe x", 3, d), numbers("moe router", count, d), np.array([0.25, -0.5, 0.0])
    w = {k: numbers("moe " + k, count + 1, d * f, scale=2).reshape(count + 1, *((d, f) if k == "w2" else (f, d)))
         for k in ("w1", "w2", "w3")}
    each = [{k: inputs(v[e]) for k, v in w.items()} for e in range(count + 1)]
    made = [twins.moe(row, inputs(router), inputs(bias), each[:count], each[count], 2, 1.5, 2.0) for row in inputs(x)]
    book.add("moe", "moe", "two of three experts and the shared one, the last of w1, w2 and w3; the limit acts on both",
             {"x": x, "weight": router, "bias": bias, **w}, {"routed": [m[2] for m in made], "out": [m[3] for m in made]}, "§2.1",
             exact={"indices": np.array([m[0] for m in made], np.int32)}, undecided=undecided(m[1] for m in made), active=2,
             route_scale=1.5, limit=2.0)
