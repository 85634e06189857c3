# SPDX-License-Identifier: Apache-2.0
"""Cases of norms, rotations, hyper-connections and prediction."""

import numpy as np

import twins
from book import HC_EPS, NORM_EPS, flat, numbers, rounded
from roundings import inputs


def norms(book):
    x, w = numbers("norm x", 3, 24), numbers("norm w", 24)
    x[2] *= 2.0**-10  # eps matters
    y = [twins.rms_norm(r, inputs(w), NORM_EPS) for r in inputs(x)]
    book.add("rms_norm", "rms_norm", "weights of both signs; a row so small that eps matters", {"x": x, "weight": w}, {"y": y},
             "§2.3.3", eps=NORM_EPS)
    q = numbers("heads", 2, 3 * 16)
    book.add("rms_norm_heads", "rms_norm_heads", "every head by itself, without a weight", {"x": q},
             {"y": [twins.rms_norm_heads(r, 3, NORM_EPS) for r in inputs(q)]}, "§2.3.3", port_only=["M48"], heads=3, eps=NORM_EPS)
    x = numbers("hadamard", 2, 2 * 16)
    book.add("hadamard", "hadamard", "two heads of 16 numbers", {"x": x},
             {"y": [twins.by_heads(r, 2, twins.hadamard) for r in inputs(x)]}, heads=2)


def rotations(book):
    for name, yarn, base in [("plain", None, 10000.0), ("yarn", (16.0, 65536, 32.0, 1.0), 160000.0),
                             ("yarn_short", (8.0, 256, 32.0, 1.0), 160000.0)]:
        factor, length, fast, slow = yarn or (1.0, 0, 32.0, 1.0)
        book.add(f"frequencies_{name}", "frequencies", f"angular frequencies, {name}", {}, {"f": twins.frequencies(64, base, yarn)},
                 "§2.3.3", dims=64, base=base, factor=factor, original=length, beta_fast=fast, beta_slow=slow)
    f, x = rounded([1.0, 0.1, 0.01, 0.001]), numbers("rope x", 4, 2 * 12)
    for name, first, step, inverse, port_only in [("rope", 0, 1, 0, []), ("rope_far", 65533, 1, 0, []),
                                                  ("rope_entries", 12, 4, 0, ["M11"]), ("rope_inverse", 5, 1, 1, ["M13"])]:
        at = [first + step * s for s in range(4)]
        y = [twins.by_heads(row, 2, lambda h, p=p, i=inverse: twins.rope(h, inputs(f), p, bool(i))) for row, p in zip(inputs(x), at)]
        book.add(name, "rope", f"positions {at[0]} to {at[-1]} in steps of {step}" + (", turned back" if inverse else ""),
                 {"x": x, "frequencies": f}, {"y": y}, "§2.3.3", port_only=port_only, heads=2, first=first, step=step,
                 inverse=inverse)


def hyper_connections(book):
    logits = numbers("sinkhorn", 4, 4, scale=3)
    for rounds, name in [(1, "sinkhorn_one_round"), (2, "sinkhorn_few_rounds"), (20, "sinkhorn")]:
        book.add(name, "sinkhorn", f"{rounds} rounds; the last step is over columns", {"logits": logits},
                 {"comb": twins.sinkhorn(inputs(logits), rounds, HC_EPS)}, "8", port_only=["M66d"], rounds=rounds, eps=HC_EPS)
    n, d, s = 4, 6, 2
    streams = numbers("streams", s, n * d)
    fn, base, scale = numbers("fn", 24, n * d, scale=0.3), numbers("base", 24), np.array([0.75, 1.25, 1.5])

    def by_stream(row):
        return [row[j * d : (j + 1) * d] for j in range(n)]

    rows = [twins.hc_pre(by_stream(r), inputs(fn), inputs(base), inputs(scale), 20, NORM_EPS, HC_EPS) for r in inputs(streams)]
    book.add("hc_pre", "hc_pre", "four streams", {"streams": streams, "fn": fn, "base": base, "scale": scale},
             {k: [flat(r[i]) for r in rows] for i, k in enumerate(("mixes", "pre", "post", "comb", "x"))}, "1, 3-8", rounds=20,
             norm_eps=NORM_EPS, hc_eps=HC_EPS)
    y, post = numbers("sublayer out", s, d), rounded([[float(v) for v in r[2]] for r in rows])
    comb = rounded([[float(v) for v in flat(r[3])] for r in rows])
    out = [flat(twins.hc_post(*v[:3], [v[3][j * n : (j + 1) * n] for j in range(n)]))
           for v in ((a, by_stream(b), c, e) for a, b, c, e in zip(*map(inputs, (y, streams, post, comb))))]
    book.add("hc_post", "hc_post", "an asymmetric comb: the sum runs over its first index",
             {"streams": streams, "y": y, "post": post, "comb": comb}, {"streams_out": out}, "1")
    fn, base = numbers("head fn", n, n * d, scale=0.3), numbers("head base", n)
    rows = [twins.hc_head(by_stream(r), inputs(fn), inputs(base), inputs(1.25), NORM_EPS, HC_EPS) for r in inputs(streams)]
    book.add("hc_head", "hc_head", "one scale for all streams, no comb", {"streams": streams, "fn": fn, "base": base,
             "scale": np.array([1.25])}, {"pre": [r[0] for r in rows], "x": [r[1] for r in rows]}, norm_eps=NORM_EPS, hc_eps=HC_EPS)


def prediction(book):
    n, d, s = 3, 6, 2
    streams, e = numbers("mtp streams", s, n * d), numbers("next embedding", s, d)
    w = {k: numbers(k, d) for k in ("enorm", "hnorm")} | {k: numbers(k, d, d) for k in ("e_proj", "h_proj")}
    weights = {k: inputs(v) for k, v in w.items()}
    x = [flat(twins.mtp_input([row[j * d : (j + 1) * d] for j in range(n)], told, weights, NORM_EPS))
         for row, told in zip(inputs(streams), inputs(e))]
    book.add("mtp_input", "mtp_input", "three streams: each is normalised by itself; the embedding goes to all of them",
             {"streams": streams, "e": e, **w}, {"x": x}, "§2.1", eps=NORM_EPS)
    d, streams = 8, numbers("head streams", s, n * 8)
    w = {"fn": numbers("head fn", n, n * d, scale=0.3), "base": numbers("head base", n), "scale": np.array([0.75]),
         "norm": numbers("head norm", d), "head": numbers("head", 11, d)}
    weights, next_ids = {k: inputs(v) for k, v in w.items()}, np.array([3, 10], np.int32)
    rows = [twins.head([row[j * d : (j + 1) * d] for j in range(n)], weights, NORM_EPS, HC_EPS) for row in inputs(streams)]
    book.add("head", "head", "streams to logits, and log-probabilities of the ids that follow, over the whole vocabulary",
             {"streams": streams, **w, "next_ids": next_ids},
             {"y": [r[0] for r in rows], "logits": [r[1] for r in rows],
              "logprobs": [twins.log_probability(r[1], i) for r, i in zip(rows, next_ids)]}, norm_eps=NORM_EPS, hc_eps=HC_EPS)
