# SPDX-License-Identifier: Apache-2.0
"""Cases of compression, selection and attention."""

import math

import numpy as np

import twins
from book import NORM_EPS, flat, numbers, rounded, undecided
from roundings import inputs


def made(name, ratio, groups, rest):
    """Inputs of a compressor for so many groups and some tokens more, and the same as numbers of the twins."""
    c, d, s = 8, 5, groups * ratio + rest
    width = 2 * c if ratio == 4 else c
    arrays = {"x": numbers(name + " x", s, d), "wkv": numbers(name + " wkv", width, d),
              "wgate": numbers(name + " wgate", width, d, scale=1.5), "ape": numbers(name + " ape", ratio, width),
              "norm": numbers(name + " norm", c), "frequencies": rounded([1.0, 160000.0**-0.5])}
    return arrays, {k: inputs(v) for k, v in arrays.items()}


def rows(results, width):
    """Also when there are none."""
    return results if results else np.zeros((0, width)).tolist()


def compressors(book):
    for ratio, name, equation in [(4, "compress_overlap", "9-12"), (8, "compress_plain", "20-23")]:
        given, w = made(name, ratio, 2, 3)
        pooled, entries, state = twins.compress(w["x"], w, w["frequencies"], ratio, NORM_EPS)
        results = {"pooled": pooled, "entries": entries, "kv_state": state[0], "score_state": state[1]}
        s = len(given["x"])
        for calls, suffix in [([s], ""), ([ratio, 1, ratio, 2], "_chunks"), ([ratio - 1, *[1] * (s - ratio + 1)], "_steps")]:
            book.add(name + suffix, "compress", f"ratio {ratio}, calls of {', '.join(map(str, calls))} tokens",
                     {**given, "calls": np.array(calls, np.int32)}, results, equation, ratio=ratio, start=0, eps=NORM_EPS)
    continued(book)
    second_prompt(book)


def continued(book):
    """From a state that is an input, and a state without an entry."""
    given, w = made("continued", 4, 2, 2)
    before = 4 + 3  # tokens of earlier calls: a group, and most of the next
    _, _, state = twins.compress(w["x"][:before], w, w["frequencies"], 4, NORM_EPS)
    kv, score = (rounded([[float(v) for v in row] for row in part]) for part in state)
    x = w["x"][before:]
    pooled, entries, after = twins.compress(x, w, w["frequencies"], 4, NORM_EPS, before, (inputs(kv), inputs(score)))
    book.add("compress_continued", "compress", "the state of seven earlier tokens is an input; the next token closes a group",
             {**given, "x": given["x"][before:], "kv_state": kv, "score_state": score, "calls": np.array([len(x)], np.int32)},
             {"pooled": pooled, "entries": entries, "kv_state": after[0], "score_state": after[1]}, "9-12", ratio=4, start=before,
             eps=NORM_EPS)
    for ratio, name in [(4, "compress_overlap_open"), (8, "compress_plain_open")]:
        given, w = made(name, ratio, 0, ratio - 1)
        _, _, state = twins.compress(w["x"], w, w["frequencies"], ratio, NORM_EPS)
        book.add(name, "compress", f"a prompt of {ratio - 1} tokens: no entry, the state holds all of them",
                 {**given, "calls": np.array([ratio - 1], np.int32)},
                 {"kv_state": state[0], "score_state": state[1]}, "9-12" if ratio == 4 else "20-23",
                 exact={"pooled": np.zeros((0, 8)), "entries": np.zeros((0, 8))}, ratio=ratio, start=0, eps=NORM_EPS)


def second_prompt(book):
    given, w = made("second prompt", 4, 1, 1)
    pooled, entries, state = twins.compress(w["x"], w, w["frequencies"], 4, NORM_EPS)
    book.add("compress_second_prompt", "compress", "another prompt came before; its rows are in nobody's group",
             {**given, "earlier_prompt": numbers("earlier prompt", 6, 5), "calls": np.array([3, 2], np.int32)},
             {"pooled": pooled, "entries": entries, "kv_state": state[0], "score_state": state[1]}, "9-12", ratio=4, start=0,
             eps=NORM_EPS)


def selection(book):
    scores = np.full((4, 9), -math.inf)
    for row, visible in enumerate([0, 2, 7, 9]):
        scores[row, :visible] = numbers(f"scores {row}", visible)
    chosen = np.full((4, 4), -1, np.int32)
    for row in range(4):
        assert len({*scores[row]} - {-math.inf}) == np.isfinite(scores[row]).sum(), "tied scores leave the choice open"
        best = sorted((e for e in range(9) if scores[row, e] > -math.inf), key=lambda e, r=row: -scores[r, e])[:4]
        chosen[row, : len(best)] = best
    book.add("top_k", "top_k", "none, fewer and more entries than places", {"scores": scores}, {}, "17", exact={"chosen": chosen},
             port_only=["M35", "M83"], k=4)
    heads, j = 2, 8
    q, weights, keys = numbers("index q", 5, heads * j), numbers("index weights", 5, heads), numbers("index keys", 4, j)
    at = [2, 3, 10, 11, 15]
    scores = [twins.index_scores([q_[:j], q_[j:]], w_, inputs(keys), p) for q_, w_, p in zip(inputs(q), inputs(weights), at)]
    book.add("index_scores", "index_scores", "negative products and weights; a query sees the group that it closes",
             {"q": q, "weights": weights, "keys": keys, "positions": np.array(at, np.int32)}, {"scores": scores}, "16", heads=heads)


def indexer(book):
    """Queries, weights, keys, scores and the choice, over calls of several tokens and of one."""
    heads, j, k, calls = 4, 8, 2, [13, 1, 1, 1]
    given, w = made("indexer 5", 4, 4, 0)  # a name of numbers whose choices are far from ties
    given |= {"qr": numbers("index qr 5", 16, 6), "wq_b": numbers("index wq_b", heads * j, 6),
              "weights_proj": numbers("weights_proj", heads, 5)}
    q = [twins.by_heads(twins.matvec(inputs(given["wq_b"]), row), heads,
                        lambda h, p=p: twins.hadamard(twins.rope(h, w["frequencies"], p)))
         for p, row in enumerate(inputs(given["qr"]))]
    weights = [twins.index_weights(row, inputs(given["weights_proj"]), heads, j) for row in w["x"]]
    keys = [twins.hadamard(e) for e in twins.compress(w["x"], w, w["frequencies"], 4, NORM_EPS)[1]]
    chosen, margins = np.full((16, k), -1, np.int32), []
    for p in range(16):
        scores = twins.index_scores([q[p][h * j : (h + 1) * j] for h in range(heads)], weights[p], keys, p)
        order = sorted(range((p + 1) // 4), key=lambda e, of=scores: -float(of[e]))
        chosen[p, : len(order[:k])] = order[:k]
        margins += [scores[order[k - 1]] - scores[order[k]]] if len(order) > k else []
    book.add("index", "index", f"the best {k} of up to four entries; calls of 13 tokens and of single ones",
             {**given, "calls": np.array(calls, np.int32)}, {"q": q, "weights": weights}, "13-17", exact={"topk_idxs": chosen},
             undecided=undecided(margins), heads=heads, k=k, eps=NORM_EPS)


def core(book):
    heads, c = 3, 8
    raw, entries, sink = numbers("raw", 5, c), numbers("entries", 4, c), np.array([-0.5, 0.75, 2.0])
    for name, what, window, chosen in [
            ("core_attention", "window and entries in one softmax, distinct sinks, -1 between entries", [[1, 3]], [[2, -1, 0, -1]]),
            ("core_attention_queries", "every query has a window and entries of its own", [[0, 1], [0, 3], [2, 3]],
             [[-1, -1], [0, -1], [1, 3]])]:
        q = numbers(name + " q", len(window), heads * c)
        o = [flat(twins.attend([row[h * c : (h + 1) * c] for h in range(heads)],
                               inputs([*raw[first : first + count], *(entries[e] for e in picks if e >= 0)]), inputs(sink)))
             for row, (first, count), picks in zip(inputs(q), window, chosen)]
        book.add(name, "core_attention", what, {"q": q, "raw": raw, "entries": entries, "chosen": np.array(chosen, np.int32),
                 "window": np.array(window, np.int32), "sink": sink}, {"o": o}, "19, 26, 27",
                 port_only=["M30", "M31", "M46"] if len(window) > 1 else ["M30", "M46"])
    o, wo_a = numbers("grouped o", 2, 4 * 4), numbers("wo_a", 2 * 3, 8)
    u = [twins.grouped(row, inputs(wo_a), 2) for row in inputs(o)]
    book.add("grouped_output", "grouped_output", "two groups of two heads", {"o": o, "wo_a": wo_a}, {"o_lora": u}, "§2.3.1", heads=4,
             groups=2)


def blocks(book):
    """All of an attention without compressor, from its input to its output."""
    heads, c, d, rank, size, s = 2, 6, 5, 4, 3, 6
    w = {"wq_a": numbers("b wq_a", rank, d), "q_norm": numbers("b q_norm", rank), "wq_b": numbers("b wq_b", heads * c, rank),
         "wkv": numbers("b wkv", c, d), "kv_norm": numbers("b kv_norm", c), "attn_sink": numbers("b sink", heads),
         "wo_a": numbers("b wo_a", 2 * 3, c), "wo_b": numbers("b wo_b", d, 6)}
    x, f = numbers("b x", s, d), rounded([1.0, 0.01])
    made_of = twins.window_attention(inputs(x), {k: inputs(v) for k, v in w.items()}, inputs(f), heads, size, 2, NORM_EPS)
    results = {k: [flat(row[i]) for row in made_of] for i, k in enumerate(("q", "kv", "o", "o_lora", "out"))}
    for name, calls in [("window_attention", [6]), ("window_attention_ring", [2, 1, 2, 1])]:
        book.add(name, "window_attention", f"a window of {size}, calls of {', '.join(map(str, calls))} tokens",
                 {"x": x, **w, "frequencies": f, "calls": np.array(calls, np.int32)}, results, "18, 19, 27", heads=heads, window=size,
                 groups=2, eps=NORM_EPS)


