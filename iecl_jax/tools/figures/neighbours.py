"""Draws test images of a run with the training images that its encoder finds most similar.

    python -m iecl_jax.tools.figures.neighbours --workdir=RUN [--queries=8] [--k=8] [--out=FILE.png]

A run draws this picture itself at its end, unless `eval.pictures=False`.
"""

from collections.abc import Sequence
from pathlib import Path

from iecl_jax.evals.parts import overview
from iecl_jax.evals.pictures import gallery
from iecl_jax.tools.figures import finished


def main(words: Sequence[str] | None = None) -> None:
    """Draws the picture of the run that the command line names."""
    parser = finished.parser(__doc__, Path(overview.NEIGHBOURS).stem)
    parser.add_argument("--queries", type=finished.count, default=overview.QUERIES)
    parser.add_argument("--k", type=finished.count, default=overview.NEAREST)

    def write(subject, path, args):
        picture = overview.draw_neighbours(
            subject, queries=args.queries, k=args.k, encoded=args.images
        )
        gallery.save(picture, path)

    finished.draw(parser, words, (".png",), write)


if __name__ == "__main__":
    main()
