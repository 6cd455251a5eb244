"""What each of two processes does in test_metric.py; apart, so that a process imports little."""

import torch
from mmengine.evaluator import Evaluator

from avsmamba.evaluation import AVSMetric
from tests.evaluation.clips import random_clips, sample

NUM_CLIPS = 7
SEED = 11


def one_rank(rank, folder):
    """Score every second clip; the first one comes twice, as DefaultSampler's padding does."""
    torch.set_num_threads(1)
    torch.distributed.init_process_group("gloo", init_method=f"file://{folder}/meet", rank=rank, world_size=2)
    clips = random_clips(SEED, count=NUM_CLIPS)
    evaluator = Evaluator(AVSMetric())
    for i in [*range(NUM_CLIPS), 0][rank::2]:
        evaluator.process([sample(clips[i], i)])
    torch.save(evaluator.evaluate(NUM_CLIPS), f"{folder}/{rank}.pt")
    torch.distributed.destroy_process_group()
