"""Agreement of clusters with classes: accuracy of the best matching, NMI and ARI."""

import numpy as np


def k_means(features: np.ndarray, num_clusters: int, *, seed: int, starts: int) -> np.ndarray:
    """Returns the cluster int32 [N] of each row of features float [N, F].

    Rows are scaled to unit length. Of several starts by k-means++, the one with the smallest sum of
    squared distances counts. It is scikit-learn's KMeans.
    """
    # Imported here, since it takes a second: commands that only read a config do not need it.
    from sklearn.cluster import KMeans

    lengths = np.linalg.norm(features, axis=1, keepdims=True)
    rows = features / np.maximum(lengths, np.finfo(np.float32).tiny)
    found = KMeans(num_clusters, n_init=starts, random_state=seed).fit_predict(rows)
    return found.astype(np.int32)


def agreement(clusters: np.ndarray, labels: np.ndarray) -> dict[str, float]:
    """Compares clusters with classes.

    Args:
      clusters: int [N], from 0.
      labels: int [N], from 0.

    Returns:
      {"accuracy": the largest share of examples whose cluster is that of their class, over all ways
      to give each cluster a class of its own (the Hungarian method; Xie et al. 2016, Eq. 10),
      "nmi": the mutual information, divided by the arithmetic mean of the two entropies (Strehl and
      Ghosh 2002 have the geometric one), "ari": the adjusted Rand index, 1 for equal partitions and
      0 on average for random ones (Hubert and Arabie 1985)}.
    """
    from scipy.optimize import linear_sum_assignment
    from sklearn.metrics import adjusted_rand_score, normalized_mutual_info_score

    size = max(clusters.max(), labels.max()) + 1
    counts = np.zeros((size, size), np.int64)
    np.add.at(counts, (clusters, labels), 1)
    matched = counts[linear_sum_assignment(counts, maximize=True)].sum()
    return {
        "accuracy": float(matched / len(labels)),
        "nmi": float(normalized_mutual_info_score(labels, clusters)),
        "ari": float(adjusted_rand_score(labels, clusters)),
    }
