"""The loops of tests/method_losses.py for methods that assign images to classes or prototypes."""

import math

from loss_loops import BATCH, PROJECTIONS, cross_entropy, mean, product, unit


def labels(scores, normalization):
    """The place of each image's largest score, each class normalised over the images."""
    if normalization == "sinkhorn":
        normal = sinkhorn(scores, 0.05, 3)
    else:
        normal = []
        for column in zip(*scores):
            exponentials = [math.exp(s) for s in column]
            centred = [s - mean(column) for s in column]
            deviation = math.sqrt(mean(c * c for c in centred) + 1e-5)
            normal.append(
                {
                    "bn": [c / deviation for c in centred],
                    "softmax": [e / sum(exponentials) for e in exponentials],
                    "l2": unit(column),
                    "none": column,
                }[normalization]
            )
        normal = list(zip(*normal))
    return [list(row).index(max(row)) for row in normal]


def _swapped(scores, normalization, temperature):
    """(loss, terms) of one classifier of two views: CE(g1, t2) / 2 + CE(g2, t1) / 2."""
    classes = [labels(view, normalization) for view in scores]
    losses, entropies = [], []
    for view, other in zip(scores, classes[::-1], strict=True):
        for row, label in zip(view, other, strict=True):
            others = row[:label] + row[label + 1 :]
            losses.append(cross_entropy(row[label], others, temperature)[0])
    for given in classes:
        entropies.append(entropy(given.count(label) / BATCH for label in set(given)))
    used = mean(len(set(given)) for given in classes)
    return mean(losses), {"classes": used, "entropy": mean(entropies)}


def _of_heads(names, normalization, temperature, z):
    """(losses, terms) of several classifiers."""
    losses, terms = [], {}
    for i, name in enumerate(names):
        scores = [z[f"{side}_{name}"] for side in ("anchor", "query")]
        loss, found = _swapped(scores, normalization, temperature)
        losses.append(loss)
        terms |= {f"head{i}_{term}": value for term, value in ({"loss": loss} | found).items()}
    return losses, terms


def minent(settings, z):
    """Li et al. 2023: the mean over heads, and the scores as they are."""
    losses, terms = _of_heads(("projection", "head1"), settings.normalization, 1.0, z)
    return mean(losses), terms


def s3oc(settings, z):
    """Our reading of Li et al. 2024: the sum over levels."""
    names = ("level0", "level1")
    losses, terms = _of_heads(names, settings.normalization, settings.temperature, z)
    return sum(losses), terms


def log_softmax(scores):
    total = math.log(sum(math.exp(s) for s in scores))
    return [s - total for s in scores]


def entropy(probabilities):
    return -sum(p * math.log(p) for p in probabilities)


def sinkhorn(scores, epsilon, iterations):
    """Caron et al. 2020, Algorithm 1, where rows are images."""
    n, k = len(scores), len(scores[0])
    q = [[math.exp(s / epsilon) for s in row] for row in scores]
    for _ in range(iterations):
        shares = [sum(row[j] for row in q) * k for j in range(k)]
        q = [[x / share for x, share in zip(row, shares, strict=True)] for row in q]
        q = [[x / (sum(row) * n) for x in row] for row in q]
    return [[x * n for x in row] for row in q]


def of_other_views(targets, scores, temperature):
    """The mean cross-entropy over the targets' views and all other views."""
    losses = []
    for i, of_view in enumerate(targets):
        for v, other in enumerate(scores):
            if v != i:
                for target, row in zip(of_view, other, strict=True):
                    losses.append(-product(target, log_softmax([s / temperature for s in row])))
    return mean(losses)


def swav(settings, z):
    """Caron et al. 2020, Eq. 1, section 3.3 and Algorithm 1."""
    codes = []
    for scores in z["assigned_scores"]:
        shared = [s for s, counted in zip(scores, z["counted"], strict=True) if counted]
        codes.append(sinkhorn(shared, settings.epsilon, settings.iterations)[:BATCH])
    terms = {
        "assignment_entropy": mean(entropy(row) for view in codes for row in view),
        "mean_assignment_entropy": mean(entropy(map(mean, zip(*view))) for view in codes),
        "prototypes_used": mean(len({row.index(max(row)) for row in view}) for view in codes),
    }
    return of_other_views(codes, z["scores"], settings.temperature), terms


def dino(settings, z):
    """Caron et al. 2021, Eq. 1 to 4 and Algorithm 1."""
    targets = []
    for scores in z["teacher_scores"]:
        centred = [[s - c for s, c in zip(row, z["center"], strict=True)] for row in scores]
        logs = [log_softmax([s / z["teacher_temperature"] for s in row]) for row in centred]
        targets.append([[math.exp(x) for x in row] for row in logs])
    loss = of_other_views(targets, z["scores"], settings.temperature)
    everyone = [row for view in targets for row in view]
    terms = {
        "teacher_entropy": mean(map(entropy, everyone)),
        "mean_teacher_entropy": entropy(map(mean, zip(*everyone))),
        "teacher_student_kl": loss - mean(map(entropy, everyone)),
    }
    return loss, terms


def deepcluster_v2(settings, z):
    """Caron et al. 2020, appendix D: every view predicts the label, once for each head."""
    of_heads = []
    for head, prototypes in enumerate(z["prototypes"]):
        found = []
        for name in PROJECTIONS:
            for row, labels in zip(z[name], z["labels"], strict=True):
                if labels[head] >= 0:
                    scores = [product(unit(row), prototype) for prototype in prototypes]
                    own = scores.pop(labels[head])
                    found.append(cross_entropy(own, scores, settings.temperature))
        of_heads.append([mean(column) for column in zip(*found)])
    loss, top1 = (mean(column) for column in zip(*of_heads))
    return loss, {"cluster_top1": top1}


def deepcluster(settings, z):
    """Caron et al. 2018, Eq. 2, of the pooled features, weighted."""
    losses, hits = [], []
    for name in PROJECTIONS[: 2 if settings.symmetric else 1]:
        for row, (label, _) in zip(z[name], z["labels"], strict=True):
            if label >= 0:
                columns = zip(zip(*z["kernel"]), z["bias"], strict=True)
                scores = [product(row, column) + bias for column, bias in columns]
                loss, hit = cross_entropy(scores.pop(label), scores, 1)
                losses.append(z["weights"][label] * loss)
                hits.append(hit)
    return mean(losses), {"cluster_top1": mean(hits)}
