# SPDX-License-Identifier: Apache-2.0
"""The equations of DeepSeek-V4 as scalar code: one number at a time, sums by math.fsum. Written from the paper and the
official code's text, not from the reference; slow on purpose. Lists and numpy scalars in, nested lists out."""

import math


def dot(a, b):
    return math.fsum(x * y for x, y in zip(a, b))


def matvec(w, x):
    return [dot(row, x) for row in w]


def sigmoid(x):
    return 1 / (1 + math.exp(-x)) if x >= 0 else math.exp(x) / (1 + math.exp(x))


def softplus(x):
    """log(1 + exp(x)), linear above 20 as in PyTorch."""
    return x if x > 20 else math.log1p(math.exp(x))


# ---- norms, rotations -------------------------------------------------------------------------

def rms_norm(x, weight, eps):
    scale = 1 / math.sqrt(dot(x, x) / len(x) + eps)
    return [w * v * scale for w, v in zip(weight, x)]


def hadamard(x):
    """Sylvester order: entry (a, b) is -1 to the number of bits that a and b share."""
    n = len(x)
    return [math.fsum(v * (-1) ** bin(a & b).count("1") for b, v in enumerate(x)) / math.sqrt(n) for a in range(n)]


def frequencies(dims, base, yarn=None):
    """Per pair; yarn = (factor, original length, beta_fast, beta_slow) or None."""
    plain = [base ** (-2 * i / dims) for i in range(dims // 2)]
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
        slowed = min(max((i - low) / (high - low), 0), 1)
        out.append(f / factor * slowed + f * (1 - slowed))
    return out


def rope(head, freqs, position, inverse=False):
    """The last 2 * len(freqs) numbers of a head, as complex numbers (2i, 2i+1)."""
    out = list(head)
    tail = len(head) - 2 * len(freqs)
    for i, f in enumerate(freqs):
        turn = complex(math.cos(position * f), math.sin(position * f))
        z = complex(head[tail + 2 * i], head[tail + 2 * i + 1]) * (turn.conjugate() if inverse else turn)
        out[tail + 2 * i], out[tail + 2 * i + 1] = z.real, z.imag
    return out


# ---- hyper-connections ------------------------------------------------------------------------

def sinkhorn(logits, rounds, eps):
    """Softmax of the rows plus eps, columns; then rounds - 1 times rows and columns, eps in every denominator."""
    n = len(logits)
    c = []
    for row in logits:
        e = [math.exp(v - max(row)) for v in row]
        c.append([v / math.fsum(e) + eps for v in e])

    def columns():
        sums = [math.fsum(c[j][k] for j in range(n)) + eps for k in range(n)]
        for j in range(n):
            for k in range(n):
                c[j][k] /= sums[k]

    columns()
    for _ in range(rounds - 1):
        for j in range(n):
            total = math.fsum(c[j]) + eps
            c[j] = [v / total for v in c[j]]
        columns()
    return c


def hc_pre(streams, fn, base, scale, rounds, norm_eps, hc_eps):
    """streams[n][d] -> mixes, pre, post, comb, x."""
    n = len(streams)
    flat = [v for stream in streams for v in stream]
    shrink = 1 / math.sqrt(dot(flat, flat) / len(flat) + norm_eps)
    mixes = [dot(row, flat) * shrink for row in fn]
    pre = [sigmoid(mixes[j] * scale[0] + base[j]) + hc_eps for j in range(n)]
    post = [2 * sigmoid(mixes[n + j] * scale[1] + base[n + j]) for j in range(n)]
    logits = [[mixes[2 * n + n * j + k] * scale[2] + base[2 * n + n * j + k] for k in range(n)] for j in range(n)]
    comb = sinkhorn(logits, rounds, hc_eps)
    x = [math.fsum(pre[j] * streams[j][i] for j in range(n)) for i in range(len(streams[0]))]
    return mixes, pre, post, comb, x


def hc_post(y, streams, post, comb):
    n = len(streams)
    return [[post[k] * y[i] + math.fsum(comb[j][k] * streams[j][i] for j in range(n)) for i in range(len(y))]
            for k in range(n)]


# ---- compression, selection, attention --------------------------------------------------------

def compress(x, wkv, wgate, ape, norm, eps, ratio, freqs, overlap):
    """Entries of a whole prompt: pooled and rotated ones, one per complete group."""
    c = len(norm)
    kv = [matvec(wkv, row) for row in x]
    score = [[g + a for g, a in zip(matvec(wgate, row), ape[t % ratio])] for t, row in enumerate(x)]
    pooled, entries = [], []
    for group in range(len(x) // ratio):
        own = range(group * ratio, (group + 1) * ratio)
        before = range((group - 1) * ratio, group * ratio) if overlap and group > 0 else []
        entry = []
        for i in range(c):
            slots = [(kv[t][i], score[t][i]) for t in before]  # the first halves of the group before
            slots += [(kv[t][i + (c if overlap else 0)], score[t][i + (c if overlap else 0)]) for t in own]
            top = max(s for _, s in slots)
            e = [math.exp(s - top) for _, s in slots]
            entry.append(math.fsum(v * w for (v, _), w in zip(slots, e)) / math.fsum(e))
        pooled.append(entry)
        entries.append(rope(rms_norm(entry, norm, eps), freqs, group * ratio))
    return pooled, entries


def index_scores(q, weights, keys, position):
    """q[heads][j]; -inf where the query may not look yet."""
    visible = (position + 1) // 4
    return [math.fsum(w * max(dot(head, key), 0) for head, w in zip(q, weights)) if s < visible else -math.inf
            for s, key in enumerate(keys)]


def attend(q, entries, sink):
    """q[heads][c]: one softmax over the entries, and the sink in its denominator only."""
    out = []
    for head, s in zip(q, sink):
        z = [dot(head, e) / math.sqrt(len(head)) for e in entries]
        top = max(z)
        p = [math.exp(v - top) for v in z]
        total = math.fsum(p) + math.exp(s - top)
        out.append([math.fsum(w * e[i] for w, e in zip(p, entries)) / total for i in range(len(head))])
    return out


# ---- experts ----------------------------------------------------------------------------------

def route(logits, active, route_scale, bias=None, table=None):
    """scores, chosen experts (best first, lower number first among equals; or the table's), their weights."""
    scores = [math.sqrt(softplus(v)) for v in logits]
    if table is None:
        biased = [s + b for s, b in zip(scores, bias)]
        chosen = sorted(range(len(scores)), key=lambda e: (-biased[e], e))[:active]
    else:
        chosen = list(table)
    total = math.fsum(scores[e] for e in chosen)
    return scores, chosen, [scores[e] * route_scale / total for e in chosen]


def swiglu(gate, up, weight, limit):
    """weight * silu(gate) * up; the gate has an upper bound only."""
    if limit > 0:
        gate = [min(v, limit) for v in gate]
        up = [min(max(v, -limit), limit) for v in up]
    return [weight * (g * sigmoid(g)) * u for g, u in zip(gate, up)]


# ---- number formats ---------------------------------------------------------------------------

def decode_e8m0(code):
    return math.nan if code == 255 else 2.0 ** (code - 127)


def block_scale(amax, floor, largest):
    """The code of the smallest power of two not below max(amax, floor) / largest."""
    mantissa, exponent = math.frexp(max(amax, floor) / largest)
    return exponent - (1 if mantissa == 0.5 else 0) + 127
