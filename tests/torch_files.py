"""Files of weights as other programs write them, made of random numbers without torch."""

import numpy as np
from safetensors.numpy import save_file

BLOCKS = {"resnet10": (1, 1, 1, 1), "resnet18": (2, 2, 2, 2), "resnet50": (3, 4, 6, 3)}


def arrays(name="resnet10", *, width=4, kernel=3, num_classes=0, seed=0):
    """Returns the state dict of torchvision's ResNet: the shapes are written out here again."""
    rng = np.random.default_rng(seed)
    found = {}

    def conv(key, out, size, inside):
        scale = np.sqrt(2 / (size * size * inside))
        found[f"{key}.weight"] = np.float32(rng.normal(0, scale, (out, inside, size, size)))

    def norm(key, channels):
        found[f"{key}.weight"] = np.float32(rng.uniform(0.8, 1.2, channels))
        found[f"{key}.bias"] = np.float32(rng.normal(0, 0.1, channels))
        found[f"{key}.running_mean"] = np.float32(rng.normal(0, 0.1, channels))
        found[f"{key}.running_var"] = np.float32(rng.uniform(0.5, 1.5, channels))
        found[f"{key}.num_batches_tracked"] = np.array(7)

    bottleneck = name == "resnet50"
    conv("conv1", width, kernel, 3)
    norm("bn1", width)
    inside = width
    for layer, blocks in enumerate(BLOCKS[name], 1):
        middle = width * 2 ** (layer - 1)
        out = 4 * middle if bottleneck else middle
        for block in range(blocks):
            key = f"layer{layer}.{block}"
            plan = [(middle, 3, inside), (out, 3, middle)]
            if bottleneck:
                plan = [(middle, 1, inside), (middle, 3, middle), (out, 1, middle)]
            for i, (to, size, of) in enumerate(plan, 1):
                conv(f"{key}.conv{i}", to, size, of)
                norm(f"{key}.bn{i}", to)
            if block == 0 and (layer > 1 or inside != out):
                conv(f"{key}.downsample.0", out, 1, inside)
                norm(f"{key}.downsample.1", out)
            inside = out
    if num_classes:
        found["fc.weight"] = np.float32(rng.normal(0, 0.1, (num_classes, inside)))
        found["fc.bias"] = np.float32(rng.normal(0, 0.1, num_classes))
    return found


def write(path, named):
    """Writes a .safetensors or .npz file and returns its path."""
    if path.suffix == ".npz":
        np.savez(path, **named)
    else:
        save_file(named, path)
    return path


def features(named, images, *, kernel=3):
    """Returns the pooled features [B, F] of a ResNet of basic blocks, in float64, tap by tap.

    `images` are normalised, [B, H, W, 3]. The sums follow torchvision's names and its conventions.
    """

    def conv(x, key, stride=1):
        weight = np.float64(named[f"{key}.weight"])
        size = weight.shape[-1]
        pad = (size - 1) // 2
        x = np.pad(x, ((0, 0), (pad, pad), (pad, pad), (0, 0)))
        high, wide = ((n - size) // stride + 1 for n in x.shape[1:3])
        y = 0.0
        for i, j in np.ndindex(size, size):
            taps = x[:, i : i + stride * high : stride, j : j + stride * wide : stride]
            y = y + taps[:, :high, :wide] @ weight[:, :, i, j].T
        return y

    def norm(x, key):
        mean, var = (np.float64(named[f"{key}.running_{name}"]) for name in ("mean", "var"))
        return (x - mean) / np.sqrt(var + 1e-5) * named[f"{key}.weight"] + named[f"{key}.bias"]

    x = np.maximum(norm(conv(np.float64(images), "conv1", 2 if kernel == 7 else 1), "bn1"), 0)
    if kernel == 7:
        x = np.pad(x, ((0, 0), (1, 1), (1, 1), (0, 0)))
        high, wide = ((n - 3) // 2 + 1 for n in x.shape[1:3])
        parts = [
            x[:, i : i + 2 * high : 2, j : j + 2 * wide : 2][:, :high, :wide]
            for i, j in np.ndindex(3, 3)
        ]
        x = np.max(parts, axis=0)
    blocks = sorted({key.rsplit(".conv1", 1)[0] for key in named if key.endswith(".conv1.weight")})
    for block in blocks:
        stride = 2 if block.endswith(".0") and not block.startswith("layer1.") else 1
        y = np.maximum(norm(conv(x, f"{block}.conv1", stride), f"{block}.bn1"), 0)
        y = norm(conv(y, f"{block}.conv2"), f"{block}.bn2")
        if f"{block}.downsample.0.weight" in named:
            x = norm(conv(x, f"{block}.downsample.0", stride), f"{block}.downsample.1")
        x = np.maximum(x + y, 0)
    return x.mean((1, 2))
