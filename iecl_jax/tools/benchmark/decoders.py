"""Compares JPEG decoders with Pillow: CPU time on one core, and pixels.

    PYTHON decoders.py --images=DIR [--limit=100] [--rounds=5]

It needs NumPy and Pillow, and compares those of simplejpeg, PyTurboJPEG, OpenCV and torchvision
that this Python has. The photographs in DIR are encoded at quality 90 in several forms; `half` is
decoded at half its size. It prints a row for each form and decoder: milliseconds of CPU time for an
image until it is an array, and until it is a Pillow image, which the crops are cut from (medians of
the rounds); the share of values that equal Pillow's, and the largest difference.
"""

import argparse
import io
import statistics
import time
from pathlib import Path

import numpy as np
from PIL import Image

QUALITY = 90
# For each form: the shorter side in pixels (0 = as it is), Pillow's mode, options of `save`, and
# the divisor of the size at which it is decoded.
FORMS = {
    "256 px": (256, "RGB", {}, 1),
    "as it is": (0, "RGB", {}, 1),
    "as it is, half": (0, "RGB", {}, 2),
    "as it is, 4:4:4": (0, "RGB", {"subsampling": 0}, 1),
    "as it is, progressive": (0, "RGB", {"progressive": True}, 1),
    "as it is, grey": (0, "L", {}, 1),
    "as it is, CMYK": (0, "CMYK", {}, 1),
}


def to_image(content, divisor):
    """Decodes with Pillow, to an RGB image."""
    image = Image.open(io.BytesIO(content))
    if divisor > 1:
        image.draft(None, (image.width // divisor, image.height // divisor))
    image.load()
    return image if image.mode == "RGB" else image.convert("RGB")


def pillow(content, divisor):
    """Decodes to uint8 [H, W, 3], like the other decoders here, at 1 / divisor of the size."""
    return np.asarray(to_image(content, divisor))


def with_simplejpeg():
    """Returns the decoder of simplejpeg."""
    import simplejpeg

    def decode(content, divisor):
        if divisor == 1:
            return simplejpeg.decode_jpeg(content, "RGB")
        height, width, *_ = simplejpeg.decode_jpeg_header(content)
        least = {"min_height": height // divisor, "min_width": width // divisor}
        return simplejpeg.decode_jpeg(content, "RGB", **least)

    return decode


def with_turbojpeg():
    """Returns the decoder of PyTurboJPEG, which needs the system's libturbojpeg."""
    import turbojpeg

    library = turbojpeg.TurboJPEG()
    return lambda content, divisor: library.decode(
        content, pixel_format=turbojpeg.TJPF_RGB, scaling_factor=(1, divisor)
    )


def with_opencv():
    """Returns the decoder of OpenCV, which gives the channels in the other order."""
    import cv2

    cv2.setNumThreads(1)
    whole = cv2.IMREAD_COLOR | cv2.IMREAD_IGNORE_ORIENTATION
    flags = {1: whole, 2: cv2.IMREAD_REDUCED_COLOR_2 | cv2.IMREAD_IGNORE_ORIENTATION}

    def decode(content, divisor):
        image = cv2.imdecode(np.frombuffer(content, np.uint8), flags[divisor])
        return cv2.cvtColor(image, cv2.COLOR_BGR2RGB)

    return decode


def with_torchvision():
    """Returns the decoder of torchvision, which cannot decode at a part of the size."""
    import torch
    import torchvision

    torch.set_num_threads(1)
    mode = torchvision.io.ImageReadMode.RGB

    def decode(content, divisor):
        if divisor > 1:
            raise ValueError("only whole")
        data = torch.frombuffer(bytearray(content), dtype=torch.uint8)
        return torchvision.io.decode_jpeg(data, mode=mode).permute(1, 2, 0).contiguous().numpy()

    return decode


OTHERS = {
    "simplejpeg": with_simplejpeg,
    "PyTurboJPEG": with_turbojpeg,
    "OpenCV": with_opencv,
    "torchvision": with_torchvision,
}


def encoded(paths, shorter, mode, options):
    """Returns the photographs as JPEGs."""
    contents = []
    for path in paths:
        image = Image.open(path).convert("RGB").convert(mode)
        if shorter:
            scale = shorter / min(image.size)
            image = image.resize([round(side * scale) for side in image.size])
        buffer = io.BytesIO()
        image.save(buffer, "JPEG", quality=QUALITY, **options)
        contents.append(buffer.getvalue())
    return contents


def milliseconds(decode, contents, divisor):
    """Returns the CPU time of an image."""
    begun = time.process_time()
    for content in contents:
        decode(content, divisor)
    return 1000 * (time.process_time() - begun) / len(contents)


def through_array(decode):
    """Returns the decoder to a Pillow image that comes of a decoder to an array."""
    return lambda content, divisor: Image.fromarray(decode(content, divisor))


def compare(decode, contents, divisor):
    """Returns (share of equal values, largest difference) against Pillow."""
    equal, values, largest = 0, 0, 0
    for content in contents:
        wanted, found = pillow(content, divisor), decode(content, divisor)
        difference = np.abs(wanted.astype(np.int16) - found)
        equal, values = equal + int((difference == 0).sum()), values + difference.size
        largest = max(largest, int(difference.max()))
    return equal / values, largest


def main():
    """Prints the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--images", type=Path, required=True, help="a folder of JPEGs")
    parser.add_argument("--limit", type=int, default=100, help="photographs at most")
    parser.add_argument("--rounds", type=int, default=5)
    args = parser.parse_args()
    paths = sorted(args.images.rglob("*.[jJ][pP]*[gG]"))[: args.limit]
    decoders = {"Pillow": pillow}
    for name, load in OTHERS.items():
        try:
            decoders[name] = load()
        except (ImportError, RuntimeError) as error:
            print(f"{name}: {error}")
    print(
        "| JPEG | decoder | ms to an array | ms to an image | equal values | largest difference |"
    )
    print("|---|---|---:|---:|---:|---:|")
    for form, (shorter, mode, options, divisor) in FORMS.items():
        contents = encoded(paths, shorter, mode, options)
        can = {}
        for name, decode in decoders.items():
            try:
                can[name] = compare(decode, contents, divisor)
            except Exception as error:  # of as many types as there are libraries
                print(f"| {form} | {name} | cannot: {str(error).splitlines()[0]} |")
        taken: dict[str, list[tuple[float, float]]] = {name: [] for name in can}
        for number in range(args.rounds):
            for name in sorted(can, reverse=number % 2 == 1):
                decode = decoders[name]
                imaged = to_image if decode is pillow else through_array(decode)
                pair = [milliseconds(each, contents, divisor) for each in (decode, imaged)]
                taken[name].append((pair[0], pair[1]))
        for name, (equal, largest) in can.items():
            array, image = map(statistics.median, zip(*taken[name]))
            cells = f"{array:.2f} | {image:.2f} | {100 * equal:.2f} % | {largest}"
            print(f"| {form} | {name} | {cells} |")


if __name__ == "__main__":
    main()
