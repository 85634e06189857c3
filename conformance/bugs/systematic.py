#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Mutants that nobody reported but anyone could make: rules applied to every matching place of the reference.

Usage: systematic.py ROOT [--check]     writes conformance/bugs/systematic.toml, or says that it is out of date
"""

import dataclasses
import pathlib
import re
import sys

FILES = ["attention", "block", "compressor", "experts", "gate", "hadamard", "indexer", "kv_cache", "mhc", "model",
         "mtp", "rms_norm", "rope"]


@dataclasses.dataclass(frozen=True)
class Rule:
    name: str
    what: str      # the title; {r} is the right text
    pattern: str   # the group r is the right text
    wrong: str     # {r} and other groups may stand in it
    form: str = "expression"
    type: str = ""


CALL = r"\((?:[^()]|\((?:[^()]|\([^()]*\))*\))*\)"
INT = r"(?:std::int64_t|Index|std::size_t)"
RULES = [
    Rule("last", "the last turn of the loop over {i} is left out",
         rf"for \({INT} (?P<i>\w+) = [^;]+; \w+ < (?P<r>[^;]+);", "({r}) - 1"),
    Rule("first", "the first turn of the loop over {i} is left out",
         rf"for \({INT} (?P<i>\w+) = (?P<r>[^;,]+);", "({r}) + 1"),
    Rule("eps", "eps is left out", r"(?:\+ |, )(?P<r>eps)\b(?=[,;)])", "Real(0)", type="Real"),
    Rule("factor", "the factor {r} is left out", r"(?:\*|\*=) (?P<r>scale|static_cast<Real>\(config\.\w+\))(?=[,;) ])",
         "1", type="Real"),
    Rule("divisor", "the divisor {r} is left out",
         rf"/ (?P<r>std::sqrt{CALL}|static_cast<Real>\((?:[^()]|\([^()]*\))*\)|weights\.row\(i\)\.sum\(\))(?=[,;) ])",
         "Real(1)", type="Real"),
    Rule("two", "the factor 2 is left out", r"(?P<r>\b2) \* sigmoid\(b\)", "1"),
    Rule("sign", "{r} has the other sign",
         r"(?:[-+] |\+= )(?P<r>im \* (?:sin|cos)\(i\)|b(?=;)|w\.ape\.row\(slot\)|shared(?=[,)])|w\.bias|"
         r"base\.segment\(first, count\)|e_proj\.replicate\(1, n\)|comb\.col\(j \* n \+ k\)\.asDiagonal\(\) \* "
         r"x\.middleCols\(j \* d, d\)|out\.row\(i\)(?=;)|score\.colwise\(\)\.maxCoeff\(\))", "-1", form="times"),
    Rule("dropped", "{r} is left out",
         r"(?:[-+] |\+= |= )(?P<r>im \* (?:sin|cos)\(i\)|w\.ape\.row\(slot\)|shared(?=[,)])|"
         r"base\.segment\(first, count\)|e_proj\.replicate\(1, n\)|comb\.col\(j \* n \+ k\)\.asDiagonal\(\) \* "
         r"x\.middleCols\(j \* d, d\)|post\.col\(k\)\.asDiagonal\(\) \* out|\(sink\.transpose\(\) - m\)\.array\(\)\.exp\(\))",
         "0", form="times"),
    Rule("half", "another part is taken than {r}", r"(?P<r>state\.\w+\.topLeftCorner(?P<a>\(ratio, c\)))", "{s}.topRightCorner{a}"),
    Rule("half", "another part is taken than {r}", r"(?P<r>state\.\w+\.bottomRightCorner(?P<a>\(ratio, c\)))", "{s}.bottomLeftCorner{a}"),
    Rule("carried", "the group carried on is the old one: {r}", r"= (?P<r>state\.\w+\.bottomRows(?P<a>\(ratio\)))", "{s}.topRows{a}"),
    Rule("weights", "another weight than {r} is read", r"linear\(\w+, (?P<r>w\.(?:w1|w3|wkv|wgate|e_proj|h_proj))\)", "{other}"),
    Rule("weights", "another weight than {r} is read", r", (?P<r>w\.(?:hc_attn|hc_ffn|attn_norm|ffn_norm|enorm|hnorm)), ", "{other}"),
    Rule("scale", "another scale than {r} is read", r"n, (?P<r>w\.scale\((?P<k>[012])\))(?!, w\.base\);\n  const Mat pre)", "w.scale({k} == 2 ? 1 : {k} + 1)"),
    Rule("base", "the bias of a neighbour is added: {r}", r"(?P<r>base\.segment\(first, count\))",
         "base.segment(first > 0 ? first - 1 : 1, count)", type="Row"),
    Rule("norm", "the weight {r} of a norm is left out", r"rms_norm\(\w+, (?P<r>w\.\w+|norm|weight), (?:eps|config)", "Row::Ones({r}.size())",
         type="Row"),
    Rule("turn", "the rotation goes the other way", r"(?P<r>Rotation::(?P<way>forward|inverse)), round", "{turned}"),
    Rule("position", "positions are one too large", r"const Positions at\{(?P<r>start|first_entry \* ratio)", "{r} + 1"),
    Rule("frequency", "the neighbouring pair's frequency is used", r"static_cast<Real>\((?P<r>2 \* i)\)", "2 * i + 2"),
    Rule("ramp", "the ramp of YaRN is shifted: {r}", r"clamp<Real>\((?P<r>slope), 0, 1\)", "slope + Real(0.25)"),
    Rule("floor", "{r} is not rounded to a whole pair", r"(?P<r>std::(?:floor|ceil)\((?P<x>correction_dim\([^()]*\))\))", "{x}"),
    Rule("closes", "groups close one token early", r"if \((?P<r>slot != ratio - 1)\)", "slot != ratio - 2 || done == entries"),
    Rule("window", "the window is one token short", r"- window \+ (?P<r>1)\);", "2"),
    Rule("visible", "entries become visible one token late", r"(?P<r>\(p \+ 1\)) / ratio", "p"),
    Rule("modulo", "{r} is counted one short", r"% (?P<r>ratio|window|rows_\.rows\(\))(?=[;)])", "({r} - 1)"),
    Rule("sight", "a query does not see itself", r"Sight sight\{first - oldest, (?P<r>p - first \+ 1)", "std::max<std::int64_t>(1, p - first)"),
    Rule("maximum", "the maximum is not taken out of the exponential: {r}", r"\(z_block\.colwise\(\) - (?P<r>m)\)", "m * Real(0.5)",
         type="Column"),
    Rule("shrink", "earlier blocks are not rescaled", r"(?P<r>\(before - m\)\.array\(\)\.exp\(\)\.eval\(\))", "(before - before).array().exp().eval()"),
    Rule("chosen", "the best entry is left out", r"chosen\(i, count\+\+\) = (?P<r>c->index)", "c == row.begin() ? -1 : c->index"),
    Rule("expert", "the weight of another choice is used", r"r\.weights\(token, (?P<r>v\.choices\[e\]\[static_cast<std::size_t>\(i\)\])\)",
         "0 * {r}"),
    Rule("stream", "another stream is read", r"streams\.middleCols\((?P<r>j \* d), d\)", "((j + 1) % n) * d"),
    Rule("stream", "another stream is mixed in", r"\* x\.middleCols\((?P<r>j \* d), d\)", "((j + 1) % n) * d"),
    Rule("stream", "the result goes to another stream", r"next\.middleCols\((?P<r>k \* d), d\)", "((k + 1) % n) * d"),
    Rule("group", "the next group's weights are read", r"OutRows\{(?P<r>g \* rank), rank\}", "(g + 1) % config.o_groups * rank"),
    Rule("group", "the group's result is stored at its neighbour", r"u\.middleCols\((?P<r>g \* rank), rank\)",
         "(g + 1) % config.o_groups * rank"),
    Rule("id", "the id of the token itself is embedded", r"mtp\(out\.streams, (?P<r>next_ids), start", "own"),
    Rule("streams", "{r} of an earlier stage is used", r"hc_pre\(config, w\.hc_ffn, (?P<r>middle),", "streams", type="Mat"),
    Rule("streams", "{r} of an earlier stage is used", r"hc_post\(config, z, (?P<r>middle),", "streams", type="Mat"),
    Rule("mix", "the mix of the other sublayer writes back", r"middle, (?P<r>b), tap\.in", "a"),
    Rule("relu", "products are limited from above", r"(?P<r>match\.cwiseMax\(Real\(0\)\))", "match.cwiseMin(Real(0))", type="Mat"),
    Rule("silu", "the gate is a sigmoid without its factor", r"Mat hidden = (?P<r>gate\.array\(\)) /", "Mat::Ones(gate.rows(), gate.cols()).array()",
         type="Eigen::Array<Real, -1, -1, Eigen::RowMajor>"),
    Rule("before", "the routing weight is left out", r"\(weight\.col\(0\)\.asDiagonal\(\) \* (?P<r>hidden)\)",
         "weight.col(0).cwiseInverse().asDiagonal() * hidden", type="Mat"),
    Rule("quantised", "the rotated dims are quantised too", r", 64, (?P<r>plain|c - 2 \* frequencies\.size\(\))\)", "-1", type="Index"),
    Rule("dims", "the last dims are not rotated", r"const Index pairs = (?P<r>frequencies\.size\(\))", "frequencies.size() - 1"),
]
OTHER = {"w.w1": "w.w3", "w.w3": "w.w1", "w.wkv": "w.wgate", "w.wgate": "w.wkv", "w.e_proj": "w.h_proj", "w.h_proj": "w.e_proj",
         "w.hc_attn": "w.hc_ffn", "w.hc_ffn": "w.hc_attn", "w.attn_norm": "w.ffn_norm", "w.ffn_norm": "w.attn_norm",
         "w.enorm": "w.hnorm", "w.hnorm": "w.enorm"}

# Where a helper without taps of its own is seen first.
HELPERS = {
    "rope": "layers.L.attn.q", "yarn": "layers.L.attn.q", "rope_frequencies": "layers.L.attn.q",
    "correction_dim": "layers.L.attn.q", "gather": "layers.L.attn.o", "scores": "layers.L.attn.o",
    "core_attention": "layers.L.attn.o", "of": "layers.L.attn.o", "each_query": "layers.L.attn.o",
    "window_positions": "layers.L.attn.window_idxs", "grouped": "layers.L.attn.o_lora",
    "candidates": "layers.L.attn.compressor.pooled", "slot_weights": "layers.L.attn.compressor.pooled",
    "hadamard": "layers.L.attn.indexer.compressor.rotated", "score_row": "layers.L.attn.indexer.index_score",
    "score_rows": "layers.L.attn.indexer.index_score", "top_k": "layers.L.attn.indexer.topk_idxs",
    "sinkhorn": "layers.L.hc_attn.comb", "sigmoid": "layers.L.hc_attn.pre", "affine": "layers.L.hc_attn.pre",
    "dynamic_mixes": "layers.L.hc_attn.mixes", "collapse": "layers.L.hc_attn.x", "hashed": "layers.L.ffn.gate.indices",
    "sqrt_softplus": "layers.L.ffn.gate.scores", "swiglu": "layers.L.ffn.experts.E.hidden",
    "visits": "layers.L.ffn.experts.E.rows", "write": "layers.L.attn.o", "read": "layers.L.attn.o",
    "append": "layers.L.attn.indexer.index_score", "inverse_rms": "layers.L.hc_attn.mixes",
    "rms_norm": "layers.L.attn_norm.out", "rms_norm_heads": "layers.L.attn.q_normed", "embed": "embed",
    "visible_entries": "layers.L.attn.indexer.index_score", "model.forward": "layers.L.hc_attn.mixes",
    "block.forward": "layers.L.hc_attn.mixes", "model.head": "norm.out", "model.mtp": "mtp.J.enorm.out",
}
SCOPES = {"attention": "layers.L.attn.", "compress": "layers.L.attn.compressor.", "index": "layers.L.attn.indexer.",
          "route": "layers.L.ffn.gate.", "moe": "layers.L.ffn.", "expert": "layers.L.ffn.experts.E.",
          "hc_pre": "layers.L.hc_attn.", "hc_post": "layers.L.hc_attn.", "hc_head": "hc_head.", "mtp_input": "mtp.J.",
          "normed": "layers.L.attn_norm."}
OPTIONAL = {"kv_state", "score_state", "lse", "rows"}  # taps that no case may count on
DEFAULT_CASE = "tiny_prefill33_decode4"


# ---- where a text stands ----------------------------------------------------------------------

def functions(text):
    """(name, begin, end) of every function body, struct members included."""
    out = []
    head = re.compile(r"^(?!namespace|struct|class|enum|using|//| *(?:if|for|while|switch|return|else)\b)[^;{}=#]*?\b(\w+)\([^;{}]*\)"
                      r"(?: const)?(?: ->[^{;]*)?\s*\{", re.MULTILINE)
    for m in head.finditer(text):
        out.append((m.group(1), m.end() - 1, closing(text, m.end() - 1)))
    return out


def closing(text, at):
    depth = 0
    for i in range(at, len(text)):
        depth += {"{": 1, "}": -1}.get(text[i], 0)
        if depth == 0:
            return i
    return len(text)


def bounds_only(text):
    """Ranges that compute error bounds: they judge, they are not judged."""
    out = [(b, e) for name, b, e in functions(text) if "error" in name]
    for m in re.finditer(r"\[&\] \{", text):
        end = closing(text, m.end() - 1)
        if re.search(r"error|cwiseAbs|static_cast<Real>\((?:n \+|k\.cols|active \+|config\.n_activated)|\* (?:scores|rsqrt|mean)\)", text[m.start():end]):
            out.append((m.start(), end))
    for m in re.finditer(r"if constexpr \(kMagnitude\) \{", text):
        out.append((m.start(), closing(text, m.end() - 1)))
    return out


def tap_of(stem, text, name, body, at):
    """The tap that a place flows into: the one whose call it stands in, else the next one."""
    for key in (f"{stem}.{name}", name):
        if key in HELPERS:
            return HELPERS[key]
    scope = SCOPES.get(name)
    if scope is None:
        return None
    calls = []
    for m in re.finditer(r'"(\w+)(?:\[[a-z,]*\])?"', text[: body[1]]):
        called = re.search(r'(?:\btap\w*(?:\.in\("(\w+)"\))?\(|kept\(site\.\w+, |\n\s*)$', text[: m.start()])
        if m.start() > body[0] and called and m.group(1) not in OPTIONAL:
            calls.append((m.start(), (called.group(1) + "." if called.group(1) else "") + m.group(1)))
    before = [c for c in calls if c[0] < at and ";" not in text[c[0]:at]]
    after = [c for c in calls if c[0] > at]
    chosen = before[-1:] or after[:1]
    return scope + chosen[0][1] if chosen else None


# ---- the mutants ------------------------------------------------------------------------------

def context(text, begin, end):
    """The shortest run of whole lines around a place that occurs once, and in which it occurs once."""
    first, last = text.rfind("\n", 0, begin) + 1, text.find("\n", end)
    while text.count(text[first:last]) != 1:
        first = text.rfind("\n", 0, first - 1) + 1
        last = text.find("\n", last + 1)
    return first, last


def steps(text, begin, end):
    """Texts, each once in the one before, that lead to the place."""
    right = text[begin:end]
    if text.count(right) == 1 and len(right) > 8:  # a single digit may be alone by chance
        return []
    low, high = context(text, begin, end)
    chain = [text[low:high]]
    # Inside the lines: the shortest piece around the place that tells it apart from its like.
    whole, at = text[low:high], begin - low
    for width in range(0, len(whole)):
        piece_low, piece_high = max(0, at - width), min(len(whole), at + len(right) + width)
        piece = whole[piece_low:piece_high]
        if whole.count(piece) == 1 and piece.count(right) == 1:
            return chain if piece in (chain[0], right) else [*chain, piece]
    raise ValueError(f"no way to {right!r}")


def filled(template, groups):
    r = groups["r"]
    state = r.split(".top")[0].split(".bottom")[0]
    turned = "Rotation::inverse" if groups.get("way") == "forward" else "Rotation::forward"
    return template.format(**{**groups, "s": state, "other": OTHER.get(r, r), "turned": turned})


def mutants(root):
    counts = {}
    for stem in FILES:
        path = f"reference/{stem}.cpp"
        yield from mutants_of(path, (root / path).read_text(), counts)
    path = "reference/indexer.hpp"
    yield from mutants_of(path, (root / path).read_text(), counts)


def mutants_of(path, text, counts):
    bodies = functions(text)
    skipped = bounds_only(text)
    for rule in RULES:
        for m in re.finditer(rule.pattern, text):
            begin, end = m.span("r")
            comment = "//" in text[text.rfind("\n", 0, begin) + 1:begin]
            if comment or any(b <= begin < e for b, e in skipped):
                continue
            around = [f for f in bodies if f[1] <= begin < f[2]]
            if not around:
                continue
            name, *body = min(around, key=lambda f: f[2] - f[1])
            tap = tap_of(pathlib.Path(path).stem, text, name, body, begin)
            if tap is None or name.startswith("load_"):
                continue
            key = f"S-{name}-{rule.name}"
            counts[key] = counts.get(key, 0) + 1
            yield {
                "id": f"{key}-{counts[key]}", "title": f"{name}: {filled(rule.what, m.groupdict())}", "file": path,
                "line": text.count("\n", 0, begin) + 1, "within": steps(text, begin, end), "right": m.group("r"),
                "wrong": filled(rule.wrong, m.groupdict()), "form": rule.form, "type": rule.type, "tap": tap,
            }


def quoted(text):
    return '"' + text.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n") + '"'


def entry(mutant, settled):
    known = settled.get(mutant["id"], {})
    lines = ["[[bug]]", f"id = {quoted(mutant['id'])}", f"title = {quoted(mutant['title'])}", "systematic = true"]
    if "equivalent" in known:
        lines += ['class = "equivalent"', f"reason = {quoted(known['equivalent'])}"]
    else:
        lines += ['class = "reference"']
    lines += [f"case = {quoted(known.get('case', DEFAULT_CASE))}", f"tap = {quoted(known.get('tap', mutant['tap']))}",
              "[[bug.plant]]", f"file = {quoted(mutant['file'])}"]
    if mutant["within"]:
        lines.append(f"within = [{', '.join(quoted(step) for step in mutant['within'])}]")
    lines += [f"right = {quoted(mutant['right'])}", f"wrong = {quoted(mutant['wrong'])}"]
    if mutant["form"] != "expression":
        lines.append(f"form = {quoted(mutant['form'])}")
    if mutant["type"]:
        lines.append(f"type = {quoted(mutant['type'])}")
    return "\n".join(lines) + "\n"


def written(root):
    sys.path.insert(0, str(root / "conformance" / "bugs"))
    from settled import LEFT_OUT, SETTLED  # noqa: PLC0415  (beside this file)
    made = [m for m in mutants(root) if m["id"] not in LEFT_OUT]
    unknown = (set(SETTLED) | set(LEFT_OUT)) - {m["id"] for m in mutants(root)}
    if unknown:
        raise SystemExit(f"systematic.py: settled.py names mutants that no rule makes: {sorted(unknown)}")
    head = ("# SPDX-License-Identifier: Apache-2.0\n# Made by systematic.py from the reference; what was found out about single ones "
            "is in settled.py.\n\n")
    return head + "\n".join(entry(m, SETTLED) for m in made)


def main(arguments):
    root = pathlib.Path(arguments[0]).resolve()
    path = root / "conformance" / "bugs" / "systematic.toml"
    text = written(root)
    if "--check" in arguments:
        if not path.exists() or path.read_text() != text:
            print("systematic.toml is out of date: run conformance/bugs/systematic.py .", file=sys.stderr)
            return 1
        return 0
    path.write_text(text)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
