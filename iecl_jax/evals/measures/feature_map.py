"""Places features in the plane, so that near points are images that the encoder finds similar."""

import importlib
import importlib.util

import numpy as np
from threadpoolctl import threadpool_limits

METHODS = ("tsne", "pca", "umap")
TITLES = {"tsne": "t-SNE", "pca": "PCA", "umap": "UMAP"}
_FEWEST = 5  # points; PCA places fewer, whatever the method


def project(features: np.ndarray, *, method: str, seed: int) -> tuple[np.ndarray, str]:
    """Returns a point in the plane for each row of features.

    Rows are scaled to unit length first, because the evaluations compare features by their cosine.
    t-SNE and UMAP start from the first 50 principal components.

    Args:
      features: float [N, F].
      method: one of METHODS; "umap" needs the package umap-learn.
      seed: seed of t-SNE and UMAP.

    Returns:
      (points float64 [N, 2], the method used): PCA is used for fewer than five points, and where
      all features are equal, which gives points at the origin.

    Raises:
      ValueError: the method is unknown or not installed, or a feature is not finite.
    """
    if method not in METHODS:
        raise ValueError(f"method={method!r} must be one of {', '.join(METHODS)}.")
    if method == "umap" and importlib.util.find_spec("umap") is None:
        raise ValueError("method='umap' needs the package: pip install umap-learn.")
    if not np.isfinite(features).all():
        raise ValueError("the features hold values that are not finite: they have no map.")
    norms = np.linalg.norm(features, axis=1, keepdims=True)
    components = _principal_components((features / np.maximum(norms, 1e-12)).astype(np.float64))
    plane = np.pad(components[:, :2], ((0, 0), (0, max(0, 2 - components.shape[1]))))
    if method == "pca" or len(features) < _FEWEST or components.std() < 1e-6:
        return plane, "pca"
    if method == "umap":
        umap = importlib.import_module("umap")
        neighbours = min(15, len(features) - 1)
        return umap.UMAP(n_neighbors=neighbours, random_state=seed).fit_transform(
            components
        ), method
    from sklearn.manifold import TSNE  # Takes a second to import, so only where it is used.

    perplexity = min(30.0, (len(features) - 1) / 3)
    start = plane / (plane[:, 0].std() + 1e-12) * 1e-4
    tsne = TSNE(perplexity=perplexity, init=start, max_iter=500, random_state=seed)
    # Several threads take longer than one where other work keeps the cores busy, and other numbers
    # of them round otherwise.
    with threadpool_limits(1):
        return tsne.fit_transform(components), method


def _principal_components(rows: np.ndarray) -> np.ndarray:
    """Returns the first 50 principal components of rows [N, F], or fewer: [N, min(N, F, 50)]."""
    from sklearn.decomposition import PCA

    if np.ptp(rows, axis=0).max() < 1e-6:  # PCA would divide by the variance.
        return np.zeros((len(rows), 2))
    return PCA(min(50, *rows.shape), svd_solver="full").fit_transform(rows)
