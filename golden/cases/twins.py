# SPDX-License-Identifier: Apache-2.0
"""The equations of DeepSeek-V4 as scalar code: one number at a time, sums by math.fsum. Written from the paper and the
official code's text, not from the reference; slow on purpose. Lists of numbers in (roundings.inputs), nested lists out."""

import math

from roundings import clipped, dot, exp, log, log1p, number, power, sqrt, total, turn


def matvec(w, x):
    return [dot(row, x) for row in w]


def sigmoid(x):
    return 1 / (1 + exp(-x)) if x >= 0 else exp(x) / (1 + exp(x))


def softplus(x):
    """log(1 + exp(x)), linear above 20 as in PyTorch."""
    return x if x > 20 else log1p(exp(x))


# ---- norms, rotations -------------------------------------------------------------------------

def rms_norm(x, weight, eps):
    scale = 1 / sqrt(dot(x, x) / len(x) + eps)
    return [v * scale if w is None else w * (v * scale) for w, v in zip(weight or [None] * len(x), x)]


def rms_norm_heads(x, heads, eps):
    """Every head by itself, without a weight."""
    c = len(x) // heads
    return [v for h in range(heads) for v in rms_norm(x[h * c : (h + 1) * c], None, eps)]


def hadamard(x):
    """Sylvester order: entry (a, b) is -1 to the number of bits that a and b share."""
    n = len(x)
    return [total(-v if bin(a & b).count("1") % 2 else v for b, v in enumerate(x)) / math.sqrt(n) for a in range(n)]


def frequencies(dims, base, yarn=None):
    """Per pair; yarn = (factor, original length, beta_fast, beta_slow) or None."""
    plain = [power(base, number(-2 * i) / dims) for i in range(dims // 2)]
    if yarn is None:
        return plain
    factor, length, fast, slow = yarn

    def pair_of(turns):
        return dims * math.log(length / (turns * 2 * math.pi)) / (2 * math.log(base))

    low, high = max(math.floor(pair_of(fast)), 0), min(math.ceil(pair_of(slow)), dims - 1)
    if low == high:
        high += 0.001
    out = []
    for i, f in enumerate(plain):
        slowed = clipped(number(i - low) / (high - low), 0, 1)
        out.append(f / factor * slowed + f * (1 - slowed))
    return out


def rope(head, freqs, position, inverse=False):
    """The last 2 * len(freqs) numbers of a head, as complex numbers (2i, 2i+1)."""
    out = list(head)
    tail = len(head) - 2 * len(freqs)
    for i, f in enumerate(freqs):
        cos, sin = turn(-position if inverse else position, f)
        re, im = head[tail + 2 * i], head[tail + 2 * i + 1]
        out[tail + 2 * i], out[tail + 2 * i + 1] = re * cos - im * sin, re * sin + im * cos
    return out


def by_heads(x, heads, function):
    """A function of each head in turn."""
    c = len(x) // heads
    return [v for h in range(heads) for v in function(x[h * c : (h + 1) * c])]


# ---- hyper-connections ------------------------------------------------------------------------

def sinkhorn(logits, rounds, eps):
    """Softmax of the rows plus eps, columns; then rounds - 1 times rows and columns, eps in every denominator."""
    n = len(logits)
    c = []
    for row in logits:
        e = [exp(v - max(row)) for v in row]
        c.append([v / total(e) + eps for v in e])

    def columns():
        sums = [total(c[j][k] for j in range(n)) + eps for k in range(n)]
        for j in range(n):
            for k in range(n):
                c[j][k] = c[j][k] / sums[k]

    columns()
    for _ in range(rounds - 1):
        for j in range(n):
            row = total(c[j]) + eps
            c[j] = [v / row for v in c[j]]
        columns()
    return c


def mixes(flat, fn, norm_eps):
    """The projections, divided by the root mean square of all streams afterwards."""
    shrink = 1 / sqrt(dot(flat, flat) / len(flat) + norm_eps)
    return [dot(row, flat) * shrink for row in fn]


def collapse(pre, streams):
    return [total(pre[j] * streams[j][i] for j in range(len(streams))) for i in range(len(streams[0]))]


def hc_pre(streams, fn, base, scale, rounds, norm_eps, hc_eps):
    """streams[n][d] -> mixes, pre, post, comb, x."""
    n = len(streams)
    m = mixes([v for stream in streams for v in stream], fn, norm_eps)
    pre = [sigmoid(m[j] * scale[0] + base[j]) + hc_eps for j in range(n)]
    post = [2 * sigmoid(m[n + j] * scale[1] + base[n + j]) for j in range(n)]
    logits = [[m[2 * n + n * j + k] * scale[2] + base[2 * n + n * j + k] for k in range(n)] for j in range(n)]
    return m, pre, post, sinkhorn(logits, rounds, hc_eps), collapse(pre, streams)


def hc_post(y, streams, post, comb):
    n = len(streams)
    return [[post[k] * y[i] + total(comb[j][k] * streams[j][i] for j in range(n)) for i in range(len(y))]
            for k in range(n)]


def hc_head(streams, fn, base, scale, norm_eps, hc_eps):
    """streams[n][d] -> pre, x: one scale, no comb."""
    m = mixes([v for stream in streams for v in stream], fn, norm_eps)
    pre = [sigmoid(v * scale + b) + hc_eps for v, b in zip(m, base)]
    return pre, collapse(pre, streams)


# ---- compression, selection, attention --------------------------------------------------------

def compress(x, w, freqs, ratio, eps, start=0, state=((), ())):
    """Tokens at positions start, start + 1, … -> pooled, entries, state: the rows of keys and of scores that a later call still
    needs. w: wkv, wgate, ape, norm. With ratio 4 the group before takes part."""
    overlap, c = ratio == 4, len(w["norm"])
    end, oldest = start + len(x), start - len(state[0])
    kv = [*state[0], *(matvec(w["wkv"], row) for row in x)]
    score = [*state[1], *([g + a for g, a in zip(matvec(w["wgate"], row), w["ape"][(start + t) % ratio])] for t, row in enumerate(x))]
    pooled, entries = [], []
    for group in range(start // ratio, end // ratio):
        own = range(group * ratio - oldest, (group + 1) * ratio - oldest)
        before = range(own.start - ratio, own.start) if overlap and group > 0 else []
        entry = []
        for i in range(c):
            slots = [(kv[t][i], score[t][i]) for t in before]  # the first halves of the group before
            slots += [(kv[t][i + (c if overlap else 0)], score[t][i + (c if overlap else 0)]) for t in own]
            top = max(s for _, s in slots)
            e = [exp(s - top) for _, s in slots]
            entry.append(dot([v for v, _ in slots], e) / total(e))
        pooled.append(entry)
        entries.append(rope(rms_norm(entry, w["norm"], eps), freqs, group * ratio))
    kept = max(end // ratio * ratio - (ratio if overlap else 0), 0) - oldest
    return pooled, entries, (kv[kept:], score[kept:])


def index_weights(x, w, heads, width):
    """The factors of the scores, 1 / sqrt(width), and of their sum over heads, 1 / sqrt(heads), are folded in."""
    return [v * (1 / math.sqrt(heads * width)) for v in matvec(w, x)]


def index_scores(q, weights, keys, position):
    """q[heads][j]; -inf where the query may not look yet."""
    visible = (position + 1) // 4
    return [total(w * clipped(dot(head, key), 0, math.inf) for head, w in zip(q, weights)) if s < visible else -math.inf
            for s, key in enumerate(keys)]


def attend(q, entries, sink):
    """q[heads][c]: one softmax over the entries, and the sink in its denominator only."""
    out = []
    for head, s in zip(q, sink):
        z = [dot(head, e) / math.sqrt(len(head)) for e in entries]
        top = max(z)
        p = [exp(v - top) for v in z]
        denominator = total(p) + exp(s - top)
        out.append([dot(p, [e[i] for e in entries]) / denominator for i in range(len(head))])
    return out


def window(position, size):
    """Positions that a query sees, itself included."""
    return range(max(0, position - size + 1), position + 1)


def grouped(o, wo_a, groups):
    """Every group of heads has rows of wo_a of its own: o[h*c] -> u[groups * rank]."""
    width, rank = len(o) // groups, len(wo_a) // groups
    return [dot(wo_a[g * rank + r], o[g * width : (g + 1) * width]) for g in range(groups) for r in range(rank)]


def window_attention(x, w, freqs, heads, size, groups, eps):
    """A block without compressor: x[s][d] -> q, kv, o, u, y of every row."""
    def split(row):
        c = len(row) // heads
        return [row[h * c : (h + 1) * c] for h in range(heads)]

    kv, rows = [], []
    for t, row in enumerate(x):
        qr = rms_norm(matvec(w["wq_a"], row), w["q_norm"], eps)
        q = by_heads(rms_norm_heads(matvec(w["wq_b"], qr), heads, eps), heads, lambda h, t=t: rope(h, freqs, t))
        kv.append(rope(rms_norm(matvec(w["wkv"], row), w["kv_norm"], eps), freqs, t))
        o = [v for h in attend(split(q), [kv[p] for p in window(t, size)], w["attn_sink"]) for v in h]
        turned = by_heads(o, heads, lambda h, t=t: rope(h, freqs, t, inverse=True))
        u = grouped(turned, w["wo_a"], groups)
        rows.append((q, kv[-1], o, u, matvec(w["wo_b"], u)))
    return rows


# ---- experts ----------------------------------------------------------------------------------

def route(logits, active, route_scale, bias=None, table=None):
    """scores, chosen experts (best first, lower number first among equals; or the table's), their weights, and by how much the
    last chosen one is ahead of the first that is not (none with a table)."""
    scores = [sqrt(softplus(v)) for v in logits]
    margin = None
    if table is None:
        biased = [s + b for s, b in zip(scores, bias)]
        order = sorted(range(len(scores)), key=lambda e: (-float(biased[e]), e))
        chosen, margin = order[:active], biased[order[active - 1]] - biased[order[active]]
    else:
        chosen = list(table)
    sum_of = total(scores[e] for e in chosen)
    return scores, chosen, [scores[e] / sum_of * route_scale for e in chosen], margin


def swiglu(gate, up, weight, limit):
    """weight * silu(gate) * up; the gate has an upper bound only; weight None: the shared expert."""
    if limit > 0:
        gate = [clipped(v, -math.inf, limit) for v in gate]
        up = [clipped(v, -limit, limit) for v in up]
    hidden = [g * sigmoid(g) * u for g, u in zip(gate, up)]
    return hidden if weight is None else [weight * h for h in hidden]


def expert(x, w, weight, limit):
    """w: w1 (gate), w2 (down), w3 (up)."""
    return matvec(w["w2"], swiglu(matvec(w["w1"], x), matvec(w["w3"], x), weight, limit))


def moe(x, gate, bias, experts, shared, active, route_scale, limit):
    """chosen, margin, the sum over the chosen experts, and with the shared one."""
    _, chosen, weights, margin = route(matvec(gate, x), active, route_scale, bias=bias)
    outputs = [expert(x, experts[e], v, limit) for e, v in zip(chosen, weights)]
    routed = [total(column) for column in zip(*outputs)]
    return chosen, margin, routed, [a + b for a, b in zip(routed, expert(x, shared, None, limit))]


# ---- prediction -------------------------------------------------------------------------------

def mtp_input(streams, e, w, eps):
    """streams[n][d] at position t and the embedding of the token at t + 1: every stream is normalised and projected by itself."""
    told = matvec(w["e_proj"], rms_norm(e, w["enorm"], eps))
    return [[a + b for a, b in zip(matvec(w["h_proj"], rms_norm(stream, w["hnorm"], eps)), told)] for stream in streams]


def head(streams, w, norm_eps, hc_eps):
    """streams[n][d] -> the normed vector, and a logit for every id."""
    _, x = hc_head(streams, w["fn"], w["base"], w["scale"][0], norm_eps, hc_eps)
    y = rms_norm(x, w["norm"], norm_eps)
    return y, matvec(w["head"], y)


def log_probability(logits, token):
    top = max(logits)
    return logits[token] - (top + log(total(exp(v - top) for v in logits)))


# ---- number formats ---------------------------------------------------------------------------

def decode_e8m0(code):
    return math.nan if code == 255 else 2.0 ** (code - 127)


def block_scale(amax, floor, largest):
    """The code of the smallest power of two not below max(amax, floor) / largest."""
    mantissa, exponent = math.frexp(max(amax, floor) / largest)
    return exponent - (1 if mantissa == 0.5 else 0) + 127
