"""The PyTorch peer of the input pipeline: `DataLoader`, with Pillow for the crops.

    PYTHON torch_input.py --images=DIR --batch=64 --batches=12 --workers=1
    PYTHON torch_input.py --cached=50000 --size=32 --batch=64 --batches=2000

It only needs PyTorch and Pillow. It prints one JSON object with `images_per_second`,
`images_per_cpu_second` (CPU time of the process and its workers) and `torch` (the version). Images
from files are decoded once and cropped twice, to uint8 [B, 2, S, S, 3]. Cached images are indexed
in the main process, a batch at a time, to uint8 [B, S, S, 3]. Nothing is copied to a device.
"""

import argparse
import itertools
import json
import math
import multiprocessing
import os
import random
import time
from pathlib import Path

import numpy as np
from PIL import Image


def sample_box(width, height, scale, ratio):
    """Returns (left, top, right, bottom) of a random crop, sampled like RandomResizedCrop."""
    for _ in range(10):
        area = width * height * random.uniform(*scale)
        aspect = math.exp(random.uniform(math.log(ratio[0]), math.log(ratio[1])))
        w, h = round(math.sqrt(area * aspect)), round(math.sqrt(area / aspect))
        if 0 < w <= width and 0 < h <= height:
            left, top = random.randint(0, width - w), random.randint(0, height - h)
            return left, top, left + w, top + h
    w, h = min(width, round(height * ratio[1])), min(height, round(width / ratio[0]))
    left, top = (width - w) // 2, (height - h) // 2
    return left, top, left + w, top + h


def crop(image, box, size):
    """Returns the box resized to uint8 [S, S, 3], bilinear with antialiasing."""
    return np.array(image.crop(box).resize((size, size), Image.Resampling.BILINEAR))


class TwoCrops:
    """A map-style data set: two random crops of each JPEG in a folder."""

    def __init__(self, folder, size, scale, ratio):
        self.paths = sorted(Path(folder).glob("*.jpg"))
        self.size, self.scale, self.ratio = size, scale, ratio

    def __len__(self):
        return len(self.paths)

    def __getitem__(self, index):
        """Returns a uint8 tensor [2, S, S, 3] and a label."""
        import torch

        with Image.open(self.paths[index]) as opened:
            image = opened.convert("RGB")
        boxes = [sample_box(*image.size, self.scale, self.ratio) for _ in range(2)]
        views = np.stack([crop(image, box, self.size) for box in boxes])
        return torch.from_numpy(views), -1


def batches_of(args):
    """Yields batches without end, shuffled again in every epoch."""
    from torch.utils import data

    if args.cached:
        import torch

        shape = (args.cached, args.size, args.size, 3)
        pixels = torch.randint(0, 256, shape, dtype=torch.uint8)
        images = data.TensorDataset(pixels, torch.full((args.cached,), -1))
        batched = data.BatchSampler(data.RandomSampler(images), args.batch, drop_last=True)
        loader = data.DataLoader(images, sampler=batched, batch_size=None)
    else:
        loader = data.DataLoader(
            TwoCrops(args.images, args.size, args.scale, args.ratio),
            args.batch,
            shuffle=True,
            drop_last=True,
            num_workers=args.workers,
            persistent_workers=args.workers > 0,
        )
    while True:
        yield from loader


def cpu_seconds():
    """Returns the CPU time of this process and its workers so far, in seconds (Linux)."""
    ticks = 0
    for worker in multiprocessing.active_children():
        # Field 2, the name in brackets, may contain spaces, so fields are counted from its end:
        # user and system time (14 and 15) have the indices 11 and 12.
        fields = Path(f"/proc/{worker.pid}/stat").read_text().rpartition(")")[2].split()
        ticks += int(fields[11]) + int(fields[12])
    return time.process_time() + ticks / os.sysconf("SC_CLK_TCK")


def main():
    """Prints the rates of `--batches` batches, after some that fill and empty the buffers."""
    import torch

    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--images", help="a folder of JPEGs")
    parser.add_argument("--cached", type=int, default=0, help="images kept in memory instead")
    parser.add_argument("--size", type=int, default=224)
    parser.add_argument("--scale", type=float, nargs=2, default=(0.2, 1.0))
    parser.add_argument("--ratio", type=float, nargs=2, default=(3 / 4, 4 / 3))
    parser.add_argument("--batch", type=int, default=64)
    parser.add_argument("--batches", type=int, default=12)
    parser.add_argument("--workers", type=int, default=1)
    args = parser.parse_args()
    torch.set_num_threads(max(1, args.workers))
    stream = batches_of(args)
    for _ in itertools.islice(stream, 2 * args.workers + 1):
        pass
    begun = time.perf_counter(), cpu_seconds()
    for _ in itertools.islice(stream, args.batches):
        pass
    count = args.batches * args.batch
    result = {
        "images_per_second": count / (time.perf_counter() - begun[0]),
        "images_per_cpu_second": count / (cpu_seconds() - begun[1]),
        "torch": torch.__version__,
    }
    print(json.dumps(result))


if __name__ == "__main__":
    main()
