"""What the engine around a training step costs: ours, a bare PyTorch loop and other trainers' loops, in turns.

:func:`sosr_det.analysis.bench_train.bench.bench_train` measures; one file per contender holds its loop.
"""
