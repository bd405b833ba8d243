"""Times the peer's augmentation and SAIB separately, and prints milliseconds as a line of JSON.

    PYTHON torch_parts.py --peer=PATH/torch_peer.py [--batch=64] [--size=32] [--compile]

PYTHON must have PyTorch. `augment` makes both views of a batch. `saib` is one forward and backward
pass, with gradients of the parameters and the images. The times are medians of `--steps` calls
after an untimed one.
"""

import argparse
import importlib
import json
import pathlib
import statistics
import sys
import time

import torch


def milliseconds(function, steps: int) -> float:
    """Returns the median milliseconds of `steps` calls, after an untimed one."""
    times = []
    for _ in range(steps + 1):
        begun = time.perf_counter()
        function()
        if torch.cuda.is_available():
            torch.cuda.synchronize()
        times.append(1e3 * (time.perf_counter() - begun))
    return statistics.median(times[1:])


def main() -> None:
    """Prints {"augment": ms, "saib": ms}."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--peer", required=True)
    parser.add_argument("--batch", type=int, default=64)
    parser.add_argument("--size", type=int, default=32)
    parser.add_argument("--group", type=int, default=32)
    parser.add_argument("--patch", type=int, default=4)
    parser.add_argument("--steps", type=int, default=10)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--compile", action="store_true")
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    path = pathlib.Path(args.peer)
    sys.path.insert(0, str(path.parent))
    peer = importlib.import_module(path.stem)
    compiled = torch.compile if args.compile else lambda module: module
    shape = (args.batch, 3, args.size, args.size)
    images = torch.rand(*shape, device=device).to(memory_format=torch.channels_last)
    augment = compiled(peer.SimCLRAug(args.size).to(device))
    block = compiled(peer.SAIB(args.group, args.size, args.patch).to(device).train())
    normalised = images.clone().requires_grad_()

    def both_passes():
        block(normalised).square().sum().backward()

    result = {
        "augment": milliseconds(lambda: augment(torch.cat([images, images])), args.steps),
        "saib": milliseconds(both_passes, args.steps),
    }
    print(json.dumps(result))


if __name__ == "__main__":
    main()
