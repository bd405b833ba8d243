"""The rules of a detector as loops in float64, from their definitions, without arrays."""

import math


def iou(a, b):
    width = min(a[2], b[2]) - max(a[0], b[0])
    height = min(a[3], b[3]) - max(a[1], b[1])
    shared = max(width, 0) * max(height, 0)
    union = sum((x[2] - x[0]) * (x[3] - x[1]) for x in (a, b)) - shared
    return shared / union if union > 0 else 0.0


def encode(box, anchor, weights):
    width, height = (max(anchor[i + 2] - anchor[i], 1e-6) for i in (0, 1))
    own_width, own_height = (max(box[i + 2] - box[i], 1e-6) for i in (0, 1))
    return (
        weights[0] * ((box[0] + box[2]) - (anchor[0] + anchor[2])) / 2 / width,
        weights[1] * ((box[1] + box[3]) - (anchor[1] + anchor[3])) / 2 / height,
        weights[2] * math.log(own_width / width),
        weights[3] * math.log(own_height / height),
    )


def decode(deltas, anchor, weights):
    found = [0.0] * 4
    for i in (0, 1):
        size = anchor[i + 2] - anchor[i]
        center = (anchor[i] + anchor[i + 2]) / 2 + deltas[i] / weights[i] * size
        new = size * math.exp(min(deltas[i + 2] / weights[i + 2], math.log(1000 / 16)))
        found[i], found[i + 2] = center - new / 2, center + new / 2
    return found


def nms(boxes, scores, valid, threshold):
    """Indices of the kept boxes, by falling score."""
    kept = []
    for i in sorted(range(len(scores)), key=lambda i: -scores[i]):
        if valid[i] and all(iou(boxes[i], boxes[j]) <= threshold for j in kept):
            kept.append(i)
    return kept


def match(truths, present, boxes, foreground, background, low_quality):
    rows = [g for g in range(len(truths)) if present[g]]
    found = []
    for box in boxes:
        overlaps = [(iou(truths[g], box), -g) for g in rows]
        best, truth = max(overlaps, default=(-1.0, 0))
        keeps = best >= foreground
        if low_quality and not keeps:
            for g in rows:
                most = max(iou(truths[g], other) for other in boxes)
                keeps |= most > 0 and iou(truths[g], box) == most
        found.append(-truth if keeps else -1 if best < background else -2)
    return found


def bilinear(feature, y, x):
    """The value of feature [H][W] at (y, x): the edge's up to a cell outside, then 0."""
    height, width = len(feature), len(feature[0])
    if not (-1 <= y <= height and -1 <= x <= width):
        return 0.0
    y, x = min(max(y, 0), height - 1), min(max(x, 0), width - 1)
    top, left = int(y), int(x)
    bottom, right = min(top + 1, height - 1), min(left + 1, width - 1)
    down, along = y - top, x - left
    upper = feature[top][left] * (1 - along) + feature[top][right] * along
    lower = feature[bottom][left] * (1 - along) + feature[bottom][right] * along
    return upper * (1 - down) + lower * down


def roi_align(feature, box, size, scale, ratio, aligned):
    """[size][size] means of samples of one channel [H][W] in the bins of one box."""
    shift = 0.5 if aligned else 0.0
    start = [box[1] * scale - shift, box[0] * scale - shift]
    lengths = [(box[3] - box[1]) * scale, (box[2] - box[0]) * scale]
    if not aligned:
        lengths = [max(length, 1.0) for length in lengths]
    bins = [length / size for length in lengths]
    counts = [ratio or math.ceil(each) for each in bins]  # none in a box without width
    found = [[0.0] * size for _ in range(size)]
    for p in range(size):
        for q in range(size):
            total = 0.0
            for i in range(counts[0]):
                for j in range(counts[1]):
                    y = start[0] + bins[0] * (p + (i + 0.5) / counts[0])
                    x = start[1] + bins[1] * (q + (j + 0.5) / counts[1])
                    total += bilinear(feature, y, x)
            found[p][q] = total / max(counts[0] * counts[1], 1)
    return found


def smooth_l1(predictions, targets, counted, beta):
    total = 0.0
    for prediction, target, counts in zip(predictions, targets, counted, strict=True):
        for a, b in zip(prediction, target, strict=True):
            d = abs(a - b)
            total += counts * (d * d / (2 * beta) if d < beta else d - beta / 2)
    return total


def binary_cross_entropy(logits, positive, counted):
    rows = zip(logits, positive, counted, strict=True)
    return sum(c * math.log1p(math.exp(-x if p else x)) for x, p, c in rows)


def cross_entropy(logits, labels, counted):
    rows = zip(logits, labels, counted, strict=True)
    return sum(c * (math.log(sum(math.exp(v) for v in row)) - row[y]) for row, y, c in rows)
