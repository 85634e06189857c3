# SPDX-License-Identifier: Apache-2.0
"""What was found out about single mutants of systematic.py: another case than the default one, another first tap, or why
a mutant cannot be told from the right code."""

# Mutants that are no programs, or duplicates of a reported bug.
LEFT_OUT = {
    "S-attention-weights-1": "there is no other weight of this shape",
    "S-append-last-1": "the keys would end before the last visible one",
    "S-append-first-1": "the keys would end before the last visible one",
    "S-hadamard-first-3": "butterflies would leave their row",
}

SETTLED = {
    "S-attention-quantised-1": {"case": "official_tiny_prefill4_optional"},
    "S-compress-quantised-1": {"case": "official_tiny_prefill4_optional"},
    "S-slot_weights-sign-1": {"equivalent": "a softmax does not change with what is taken out of its exponent, until it overflows beyond 700"},
    "S-hadamard-last-2": {"equivalent": "half is a power of two below n, and none lies between n - 1 and n"},
    "S-hadamard-last-3": {"equivalent": "blocks begin at multiples of an even width, and none begins at the last column"},
    # The loop over tiles runs when nobody watches the scores: in the case of one component.
    "S-index-last-1": {"case": "cases/index", "tap": "layers.L.attn.indexer.topk_idxs"},
    "S-index-first-1": {"case": "cases/index", "tap": "layers.L.attn.indexer.topk_idxs"},
    # Seen at the experts' own taps.
    "S-visits-last-1": {"case": "tiny_prefill4_optional"},
    "S-visits-last-2": {"case": "tiny_prefill4_optional"},
    "S-visits-first-1": {"case": "tiny_prefill4_optional"},
    "S-visits-first-2": {"case": "tiny_prefill4_optional"},
    "S-expert-weights-1": {"case": "tiny_prefill4_optional"},
    "S-expert-weights-2": {"case": "tiny_prefill4_optional"},
    "S-swiglu-silu-1": {"case": "tiny_prefill4_optional"},
    "S-swiglu-before-1": {"case": "tiny_prefill4_optional"},
    "S-moe-first-1": {"case": "tiny_prefill4_optional", "tap": "layers.L.ffn.experts.E.rows"},
    # Functions with several taps, where the rule cannot tell which one a text flows into.
    "S-attention-position-1": {"tap": "layers.L.attn.q"},
    "S-attention-window-1": {"tap": "layers.L.attn.o"},
    "S-forward-weights-2": {"tap": "layers.L.attn_norm.out"},
    "S-forward-weights-3": {"tap": "layers.L.hc_ffn.mixes"},
    "S-forward-weights-4": {"tap": "layers.L.ffn_norm.out"},
    "S-forward-streams-1": {"tap": "layers.L.hc_ffn.mixes"},
    "S-forward-streams-2": {"tap": "layers.L.hc_ffn.out"},
    "S-forward-mix-1": {"tap": "layers.L.hc_ffn.out"},
    "S-forward-id-1": {"tap": "mtp.J.enorm.out"},
    "S-hc_pre-scale-2": {"tap": "layers.L.hc_attn.post"},
    "S-hc_pre-scale-3": {"tap": "layers.L.hc_attn.comb"},
    # The streams that enter the first block are copies of one another.
    "S-collapse-stream-1": {"tap": "layers.L.hc_ffn.x"},
    "S-hc_post-stream-1": {"tap": "layers.L.hc_ffn.out"},
    # Entries become visible at positions of whole groups; the default case keeps the scores of others.
    "S-visible_entries-visible-1": {"case": "tiny_prefill4_optional"},
}
