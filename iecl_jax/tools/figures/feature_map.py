"""Draws the features of a run's test images as points in the plane, coloured by class.

    python -m iecl_jax.tools.figures.feature_map --workdir=RUN [--method=tsne|pca|umap]

--method=umap needs the package umap-learn. A run draws its map by t-SNE itself at its end, unless
`eval.pictures=False`.
"""

from collections.abc import Sequence
from pathlib import Path

from iecl_jax.evals.measures import feature_map
from iecl_jax.evals.parts import overview
from iecl_jax.evals.pictures import style
from iecl_jax.tools.figures import finished


def main(words: Sequence[str] | None = None) -> None:
    """Draws the map of the run that the command line names."""
    parser = finished.parser(__doc__, Path(overview.MAP).stem)
    parser.add_argument("--method", choices=feature_map.METHODS, default="tsne")
    parser.add_argument("--points", type=finished.count, default=overview.POINTS)

    def write(subject, path, args):
        with style.context():
            drawn = overview.draw_map(
                subject, method=args.method, points=args.points, encoded=args.images
            )
            style.save(drawn, path)

    finished.draw(parser, words, style.SUFFIXES, write)


if __name__ == "__main__":
    main()
