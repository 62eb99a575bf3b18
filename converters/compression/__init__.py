"""Compression beyond int8: smaller or sturdier models trained from the given one, each judged against it by the same budget.

Lives here: what can be done (`recipes`), how it is trained (`training`, `objective`, `schedule`), one module for each kind
(`channels`, `sparsity`, `students`, `qat`), and `pipeline`, which hands what came out to the conversion. May not live here:
quantization, measuring and choosing, which are the conversion's. Torch is imported only where it is used (`toolkit`).
"""
